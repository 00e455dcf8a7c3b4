//! [`Identity`]: who the command runs as, by the image's own `/etc/passwd` and `/etc/group`.

/// Numbers above are not users (the kernel keeps `-1` for "nobody", and tools read them signed).
const MAX_ID: u32 = i32::MAX as u32;

/// The kernel takes no more of them (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65536;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, `gid` among them: a program that changes its group must not get round a mode
    /// that denies the first one something (CVE-2022-36109).
    pub groups: Vec<u32>,
    pub home: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("there is no user `{0}` in /etc/passwd")]
    NoUser(String),
    #[error("there is no group `{0}` in /etc/group")]
    NoGroup(String),
}

impl Identity {
    /// `user` is a name or number, optionally `:` and a group's name or number; empty: root.
    ///
    /// As the OCI image specification has it: with a group named, that is the only one; else they
    /// are the user's own. A number need not be in the files.
    pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<Self, IdentityError> {
        let (user, named_group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (user, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let entry = find_user(user, passwd);
        let uid = entry
            .as_ref()
            .map(|entry| entry.uid)
            .or_else(|| number(user))
            .ok_or_else(|| IdentityError::NoUser(user.to_owned()))?;
        let home = entry
            .as_ref()
            .map(|entry| entry.home)
            .filter(|home| home.starts_with('/'))
            .unwrap_or("/")
            .to_owned();
        let (gid, mut groups) = match named_group {
            Some(name) => {
                let gid = find_group(name, group)
                    .or_else(|| number(name))
                    .ok_or_else(|| IdentityError::NoGroup(name.to_owned()))?;
                (gid, Vec::new())
            }
            None => entry.map_or((0, Vec::new()), |entry| {
                (entry.gid, groups_of(entry.name, group))
            }),
        };
        groups.truncate(MAX_GROUPS - 1);
        groups.push(gid);
        groups.sort_unstable();
        groups.dedup();
        Ok(Self {
            uid,
            gid,
            groups,
            home,
        })
    }
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// By name, else by number.
fn find_user<'a>(user: &str, passwd: &'a str) -> Option<User<'a>> {
    let entries = || lines(passwd).filter_map(parse_user);
    entries()
        .find(|entry| entry.name == user)
        .or_else(|| entries().find(|entry| Some(entry.uid) == number(user)))
}

/// As container engines read both files (`moby/sys`, user.go): blanks around a line count for nothing, and
/// fields that are left out at its end are empty.
fn lines(file: &str) -> impl Iterator<Item = &str> {
    file.lines().map(str::trim)
}

/// None for a line without a name, or without a number that can be read: engines take 0 then, so that a
/// damaged line makes its user root. A group that is left out is 0 here too, as it is for a number that is in no
/// line.
fn parse_user(line: &str) -> Option<User<'_>> {
    let mut fields = line.split(':');
    let mut field = || fields.next().unwrap_or_default();
    let [name, _password, uid, gid, _comment, home] = std::array::from_fn(|_| field());
    if name.is_empty() {
        return None;
    }
    Some(User {
        name,
        uid: number(uid)?,
        gid: if gid.is_empty() { 0 } else { number(gid)? },
        home,
    })
}

/// Name, number and members of each group (group(5)), but for lines that are comments, and for those that
/// [`parse_user`] would not take either.
fn parse_groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    let groups = lines(group).filter(|line| !line.starts_with('#'));
    groups.filter_map(|line| {
        let mut fields = line.split(':');
        let mut field = || fields.next().unwrap_or_default();
        let [name, _password, gid, members] = std::array::from_fn(|_| field());
        (!name.is_empty()).then_some((name, number(gid)?, members))
    })
}

fn find_group(name: &str, group: &str) -> Option<u32> {
    parse_groups(group)
        .find(|(found, ..)| *found == name)
        .map(|(_, gid, _)| gid)
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    parse_groups(group)
        .filter(|(.., members)| members.split(',').any(|member| member.trim() == user))
        .map(|(_, gid, _)| gid)
        .collect()
}

/// Digits only: neither a sign nor anything else that `parse` takes.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits {
        text.parse().ok().filter(|id| *id <= MAX_ID)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# a comment
app:x:1000:1001:App,,,:/home/app:/bin/sh
1000:x:7:7::/odd:
homeless:x:5:5:::
short:x:20:21
  heredoc:x:22:23::/doc:/bin/sh\t\r
cut:x:6
open:x:24:
less:x
empty:x::25::/:
text:x:some:25::/:
texts:x:26:some::/:
:x:27:28::/nameless:
big:x:4294967295:0::/:
";
    const GROUP: &str = "\
root:x:0:
app:x:1001:
video:x:44:app,root
audio:x:29:other,app
broken
12:x:99:
  blank:x:30:short,heredoc
#gone:x:31:short
damaged:x::short
damaged:x:some:short
:x:32:short
few:x:33
";

    fn resolve(user: &str) -> Result<Identity, IdentityError> {
        Identity::resolve(user, PASSWD, GROUP)
    }

    /// `others`: the groups besides `gid`.
    fn identity(uid: u32, gid: u32, others: &[u32], home: &str) -> Identity {
        let mut groups = [&[gid], others].concat();
        groups.sort_unstable();
        Identity {
            uid,
            gid,
            groups,
            home: home.into(),
        }
    }

    #[test]
    fn users_and_groups() {
        for (user, expected) in [
            ("", identity(0, 0, &[44], "/root")),
            ("root", identity(0, 0, &[44], "/root")),
            ("app", identity(1000, 1001, &[29, 44], "/home/app")),
            ("app:", identity(1000, 1001, &[29, 44], "/home/app")),
            ("app:video", identity(1000, 44, &[], "/home/app")),
            ("app:4", identity(1000, 4, &[], "/home/app")),
            // A name goes before a number.
            ("1000", identity(7, 7, &[], "/odd")),
            ("app:12", identity(1000, 99, &[], "/home/app")),
            ("7", identity(7, 7, &[], "/odd")),
            ("12345", identity(12345, 0, &[], "/")),
            ("12345:54321", identity(12345, 54321, &[], "/")),
            (":video", identity(0, 44, &[], "/root")),
            ("homeless", identity(5, 5, &[], "/")),
            // As scratch images have them, by `echo`.
            ("short", identity(20, 21, &[30], "/")),
            ("20", identity(20, 21, &[30], "/")),
            ("heredoc", identity(22, 23, &[30], "/doc")),
            ("cut", identity(6, 0, &[], "/")),
            ("open", identity(24, 0, &[], "/")),
            // In no line that can be read.
            ("26", identity(26, 0, &[], "/")),
            ("27", identity(27, 0, &[], "/")),
            ("short:few", identity(20, 33, &[], "/")),
        ] {
            assert_eq!(resolve(user), Ok(expected), "{user}");
        }
    }

    #[test]
    fn unknown_ones_are_named() {
        assert_eq!(
            resolve("nobody"),
            Err(IdentityError::NoUser("nobody".into()))
        );
        assert_eq!(
            resolve("app:staff"),
            Err(IdentityError::NoGroup("staff".into()))
        );
        for user in ["big", "4294967295", "-1", "+1", "2147483648", " app"] {
            assert!(resolve(user).is_err(), "{user}");
        }
        // Those of damaged lines are not root.
        for user in ["less", "empty", "text", "texts"] {
            let expected = IdentityError::NoUser(user.into());
            assert_eq!(resolve(user), Err(expected));
        }
        for group in ["damaged", "gone", "#gone", "broken"] {
            assert!(resolve(&format!("app:{group}")).is_err(), "{group}");
        }
    }

    #[test]
    fn an_image_without_the_files_has_root_and_numbers() {
        assert_eq!(Identity::resolve("", "", ""), Ok(identity(0, 0, &[], "/")));
        assert_eq!(
            Identity::resolve("5:6", "", ""),
            Ok(identity(5, 6, &[], "/"))
        );
        assert!(Identity::resolve("root", "", "").is_err());
    }

    /// And a user's own group is one of them, in the file or not.
    #[test]
    fn as_many_groups_as_the_kernel_takes() {
        let all: String = (1..70_000).map(|gid| format!("g:x:{gid}:app\n")).collect();
        for gid in [1, 5, 80_000] {
            let passwd = format!("app:x:7:{gid}");
            let groups = Identity::resolve("app", &passwd, &all).unwrap().groups;
            assert!(groups.contains(&gid) && groups.len() <= MAX_GROUPS);
            assert!(groups.len() >= MAX_GROUPS - 1 && groups.is_sorted());
        }
    }

    proptest! {
        #[test]
        fn never_panics(user in ".{0,20}", passwd in "[a-z0-9:\n,-]{0,200}", group in "[a-z0-9:\n,]{0,200}") {
            let _ = Identity::resolve(&user, &passwd, &group);
        }
    }
}
