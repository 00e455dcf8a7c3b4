//! virtio-console's control messages (virtio 1.2, 5.3.6.2): how ports are announced and opened.

use std::collections::VecDeque;

use loam_node_api::guest::AGENT_PORT;

use crate::hw::virtio::console::ConsoleError;

const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

const MESSAGE_LEN: usize = 8;
/// Both ports' announcements, several times over; a driver that wants more does not read.
const MOST_REPLIES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Console,
    Agent,
}

impl Port {
    const ALL: [Self; 2] = [Self::Console, Self::Agent];

    fn id(self) -> u32 {
        match self {
            Self::Console => 0,
            Self::Agent => 1,
        }
    }

    fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|port| port.id() == id)
    }
}

/// What the console does about a driver's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Open(Port, bool),
}

#[derive(Debug, Default)]
pub struct Control {
    replies: VecDeque<Vec<u8>>,
}

impl Control {
    /// A buffer from the driver; what is no message, or of no interest, is ignored.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Message>, ConsoleError> {
        let Some(&[i0, i1, i2, i3, e0, e1, v0, v1]) = bytes.first_chunk::<MESSAGE_LEN>() else {
            return Ok(None);
        };
        let event = u16::from_le_bytes([e0, e1]);
        let value = u16::from_le_bytes([v0, v1]);
        let port = Port::from_id(u32::from_le_bytes([i0, i1, i2, i3]));
        match (event, port) {
            (DEVICE_READY, _) if value == 1 => {
                for port in Port::ALL {
                    self.reply(port, DEVICE_ADD, 0, b"")?;
                }
            }
            (PORT_READY, Some(port)) if value == 1 => {
                match port {
                    Port::Console => self.reply(port, CONSOLE_PORT, 1, b"")?,
                    Port::Agent => self.reply(port, PORT_NAME, 1, AGENT_PORT.as_bytes())?,
                }
                self.reply(port, PORT_OPEN, 1, b"")?;
            }
            (PORT_OPEN, Some(port)) => return Ok(Some(Message::Open(port, value != 0))),
            _ => {}
        }
        Ok(None)
    }

    pub fn has_reply(&self) -> bool {
        !self.replies.is_empty()
    }

    pub fn next_reply(&mut self) -> Option<Vec<u8>> {
        self.replies.pop_front()
    }

    fn reply(
        &mut self,
        port: Port,
        event: u16,
        value: u16,
        text: &[u8],
    ) -> Result<(), ConsoleError> {
        if self.replies.len() >= MOST_REPLIES {
            return Err(ConsoleError::ControlFlood);
        }
        let mut message = port.id().to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(text);
        self.replies.push_back(message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(port: u32, event: u16, value: u16) -> Vec<u8> {
        [
            &port.to_le_bytes()[..],
            &event.to_le_bytes(),
            &value.to_le_bytes(),
        ]
        .concat()
    }

    #[test]
    fn ports_are_added_named_and_opened() {
        let mut control = Control::default();
        control.take(&message(0, DEVICE_READY, 1)).unwrap();
        control.take(&message(1, PORT_READY, 1)).unwrap();
        let replies: Vec<_> = std::iter::from_fn(|| control.next_reply()).collect();
        let named = [message(1, PORT_NAME, 1), b"loam.agent".to_vec()].concat();
        assert_eq!(
            replies,
            [
                message(0, DEVICE_ADD, 0),
                message(1, DEVICE_ADD, 0),
                named,
                message(1, PORT_OPEN, 1)
            ]
        );
        let opened = control.take(&message(1, PORT_OPEN, 1)).unwrap();
        assert_eq!(opened, Some(Message::Open(Port::Agent, true)));
    }

    #[test]
    fn nonsense_is_ignored_and_floods_are_not() {
        let mut control = Control::default();
        for bytes in [
            vec![],
            vec![0; 7],
            message(2, PORT_READY, 1),
            message(0, 99, 1),
        ] {
            assert_eq!(control.take(&bytes).unwrap(), None);
        }
        assert!(!control.has_reply());
        let flood = (0..100).find_map(|_| control.take(&message(0, DEVICE_READY, 1)).err());
        assert!(matches!(flood, Some(ConsoleError::ControlFlood)));
    }
}
