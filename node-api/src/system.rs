//! Which image a node runs.

use std::fs;

use crate::path::OS_RELEASE;

/// What `/etc/os-release` names as the build (os-release(5)); empty where it names none.
pub fn image() -> String {
    image_in(&fs::read_to_string(OS_RELEASE).unwrap_or_default())
}

/// The same of a file's text.
pub fn image_in(os_release: &str) -> String {
    let named = os_release
        .lines()
        .find_map(|line| line.strip_prefix("BUILD_ID="));
    named.unwrap_or_default().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_named() {
        let text = "ID=loam\nBUILD_ID=0.1.0+g3a087a6\nVERSION_ID=0.1.0\n";
        assert_eq!(image_in(text), "0.1.0+g3a087a6");
        assert_eq!(image_in("BUILD_ID=\"a b\"\n"), "a b");
        assert_eq!(image_in("ID=debian\n"), "");
    }
}
