#!/bin/sh
[ "$(java -Xmx128m -cp '/usr/share/java/*' clojure.main -e '(reduce + (range 10))')" = 45 ] && echo right: Java
[ $(node -e 'Promise.resolve(6).then(n => console.log(n * 7))') = 42 ] && echo right: Node.js
[ $(python3 -c 'print(6 * 7)') = 42 ] && echo right: Python
export RESTIC_PASSWORD=x RESTIC_REPOSITORY=/tmp/r
restic -q init && restic -q backup /etc && restic -q check && echo right: a program in Go
