//! The power button, as the kernel's input devices show it.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use loam_node_api::machine::Shutdown;
use rustix::fs::{Mode, OFlags};
use tokio::{
    io::Interest,
    sync::{mpsc, oneshot},
};

use crate::{device::AsyncDevice, event::Event};

/// linux/input-event-codes.h.
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// `struct input_event` on 64 bits: two times 8 bytes of time, type, code, value.
const EVENT_SIZE: usize = 24;

/// How long a button that cannot be heard is left alone.
const PAUSE: Duration = Duration::from_secs(60);

/// Opens a device.
type Open = fn(&Path) -> io::Result<OwnedFd>;

#[derive(Debug)]
pub struct Buttons {
    /// What the kernel says of input devices, and the devices.
    class: PathBuf,
    devices: PathBuf,
    /// Names (`event0`) that are listened to already.
    heard: BTreeSet<String>,
    open: Open,
}

impl Default for Buttons {
    fn default() -> Self {
        Self::below("/sys/class/input".into(), "/dev/input".into(), open)
    }
}

impl Buttons {
    fn below(class: PathBuf, devices: PathBuf, open: Open) -> Self {
        Self {
            class,
            devices,
            heard: BTreeSet::new(),
            open,
        }
    }

    /// Listens to every power button that is not yet listened to. When it goes,
    /// [`Event::ButtonGone`] says so.
    pub fn listen(&mut self, sender: &mpsc::Sender<Event>) {
        let entries = fs::read_dir(&self.class).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            if !name.starts_with("event")
                || self.heard.contains(&name)
                || !is_power_button(&self.class.join(&name))
            {
                continue;
            }
            tracing::info!(device = name, "listening to the power button");
            let opened = begin_to_open(self.open, self.devices.join(&name));
            let (sender, gone) = (sender.clone(), name.clone());
            tokio::task::spawn_local(async move {
                if let Err(error) = hear(opened, &sender).await {
                    tracing::warn!(device = gone, %error, "power button is not heard");
                    tokio::time::sleep(PAUSE).await;
                }
                let _ = sender.send(Event::ButtonGone(gone)).await;
            });
            self.heard.insert(name);
        }
    }

    /// It is gone: another device may have its name by now.
    pub fn forget(&mut self, name: &str) {
        self.heard.remove(name);
    }
}

fn is_power_button(device: &Path) -> bool {
    let keys = device.join("device/capabilities/key");
    fs::read_to_string(keys).is_ok_and(|keys| has_key(&keys, KEY_POWER))
}

/// `capabilities/key`: words of 64 bits in hexadecimal, the highest first.
fn has_key(keys: &str, key: u16) -> bool {
    let word = keys.split_whitespace().rev().nth(usize::from(key / 64));
    let word = word.and_then(|word| u64::from_str_radix(word, 16).ok());
    word.is_some_and(|word| word & (1 << (key % 64)) != 0)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// On a thread: opening wakes the device, and its driver may take as long as it likes.
fn begin_to_open(open: Open, path: PathBuf) -> oneshot::Receiver<io::Result<OwnedFd>> {
    let (sender, opened) = oneshot::channel();
    let thread = thread::Builder::new().name("button".into());
    // Without a thread the sender is gone, and says so.
    let _ = thread.spawn(move || sender.send(open(&path)));
    opened
}

/// Until the device has gone; an error if it could not be heard at all.
async fn hear(
    opened: oneshot::Receiver<io::Result<OwnedFd>>,
    sender: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let device = opened.await.map_err(io::Error::other)??;
    let device = AsyncDevice::new(device, Interest::READABLE)?;
    let mut buffer = [0; 16 * EVENT_SIZE];
    loop {
        let read = |fd: BorrowedFd| Ok(rustix::io::read(fd, &mut buffer)?);
        let Ok(length @ 1..) = device.when_ready(Interest::READABLE, read).await else {
            return Ok(());
        };
        if buffer[..length].chunks_exact(EVENT_SIZE).any(is_press) {
            tracing::info!("power button pressed");
            let _ = sender.send(Event::Power(Shutdown::PowerOff)).await;
        }
    }
}

fn is_press(event: &[u8]) -> bool {
    let number = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    (number(16), number(18)) == (EV_KEY, KEY_POWER) && event[20..24] == 1i32.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn power_buttons_are_told_from_keyboards() {
        assert!(has_key("10000000000000 0", KEY_POWER));
        assert!(has_key(
            "402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe",
            30
        ));
        assert!(!has_key("0", KEY_POWER));
        assert!(!has_key("", KEY_POWER));
        assert!(!has_key("fffffffffffffffe", KEY_POWER));
    }

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    /// A FIFO stands for the device: it ends when its writer does.
    #[tokio::test]
    async fn a_button_that_is_plugged_in_again_is_heard_again() {
        let root = tempfile::tempdir().unwrap();
        let (class, devices) = (root.path().join("class"), root.path().join("dev"));
        let keys = class.join("event0/device/capabilities");
        fs::create_dir_all(&keys).unwrap();
        fs::write(keys.join("key"), "10000000000000 0").unwrap();
        fs::create_dir(&devices).unwrap();
        let path = devices.join("event0");
        let plug = || {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                Mode::RWXU,
                0,
            )
            .unwrap();
            fs::File::options()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap()
        };
        let mut buttons = Buttons::below(class, devices.clone(), open);
        let (sender, mut events) = mpsc::channel(8);
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                for _ in 0..2 {
                    let mut device = plug();
                    buttons.listen(&sender);
                    buttons.listen(&sender);
                    io::Write::write_all(&mut device, &event(1, 116, 1)).unwrap();
                    let pressed = events.recv().await;
                    assert!(matches!(pressed, Some(Event::Power(Shutdown::PowerOff))));
                    drop(device);
                    fs::remove_file(&path).unwrap();
                    match events.recv().await {
                        Some(Event::ButtonGone(name)) => buttons.forget(&name),
                        other => panic!("{other:?}"),
                    }
                }
            })
            .await;
    }

    #[tokio::test]
    async fn a_button_whose_driver_hangs_holds_up_nobody() {
        static HANGS: Mutex<()> = Mutex::new(());
        let root = tempfile::tempdir().unwrap();
        let keys = root.path().join("event0/device/capabilities");
        fs::create_dir_all(&keys).unwrap();
        fs::write(keys.join("key"), "10000000000000 0").unwrap();
        let hangs = HANGS.lock().unwrap();
        let open = |_: &Path| {
            drop(HANGS.lock());
            Ok(OwnedFd::from(io::pipe()?.0))
        };
        let mut buttons = Buttons::below(root.path().into(), root.path().into(), open);
        let (sender, mut events) = mpsc::channel(8);
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                buttons.listen(&sender);
                // Only now does the device answer; and it is gone.
                drop(hangs);
                assert!(matches!(events.recv().await, Some(Event::ButtonGone(_))));
            })
            .await;
    }

    #[test]
    fn only_the_press_counts() {
        assert!(is_press(&event(1, 116, 1)));
        assert!(!is_press(&event(1, 116, 0)));
        assert!(!is_press(&event(1, 30, 1)));
        assert!(!is_press(&event(0, 0, 0)));
    }
}
