#!/bin/sh
nginx -t 2>/dev/null && echo right: its configuration
nginx
curl -s http://localhost/ | grep -q nginx && echo right: it serves
curl -s http://$(hostname)/ | grep -q nginx && echo right: by the machine\'s name
nginx -s quit
