//! The encrypted channel between a tenant and a node: Noise NK over any stream.
//!
//! One direction at a time: a side that streams does not read meanwhile, so a tenant who wants to
//! type while output flows opens a second channel.

use serde::{Serialize, de::DeserializeOwned};
use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{MAX_MESSAGE, NOISE_PATTERN, PROLOGUE};

/// Bytes that encryption adds to each message: the tag of Poly1305.
const TAG: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("the other side is not who it should be, or the connection was tampered with")]
    Noise(#[from] snow::Error),
    #[error("the other side sent what is no message: {0}")]
    Message(#[from] serde_json::Error),
    #[error("a message of {0} bytes is too large to send")]
    TooLarge(usize),
}

#[derive(Debug)]
pub struct Channel<S> {
    stream: S,
    noise: TransportState,
    hash: [u8; 32],
    /// Scratch for one message on the wire.
    wire: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    /// The tenant's side; `node` is the X25519 public key in the node's record on the chain.
    pub async fn connect(mut stream: S, node: &[u8; 32]) -> Result<Self, ChannelError> {
        let mut noise = builder()?.remote_public_key(node)?.build_initiator()?;
        write_handshake(&mut stream, &mut noise).await?;
        read_handshake(&mut stream, &mut noise).await?;
        Self::new(stream, noise)
    }

    /// The node's side, with its X25519 private key.
    pub async fn accept(mut stream: S, private: &[u8; 32]) -> Result<Self, ChannelError> {
        let mut noise = builder()?.local_private_key(private)?.build_responder()?;
        read_handshake(&mut stream, &mut noise).await?;
        write_handshake(&mut stream, &mut noise).await?;
        Self::new(stream, noise)
    }

    fn new(stream: S, noise: HandshakeState) -> Result<Self, ChannelError> {
        let mut hash = [0; 32];
        hash.copy_from_slice(noise.get_handshake_hash());
        let noise = noise.into_transport_mode()?;
        Ok(Self {
            stream,
            noise,
            hash,
            wire: Vec::new(),
        })
    }

    /// What a tenant signs to prove itself on this channel and no other.
    pub fn challenge(&self) -> Vec<u8> {
        [PROLOGUE, &self.hash].concat()
    }

    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ChannelError> {
        let plain = serde_json::to_vec(message)?;
        if plain.len() + TAG > MAX_MESSAGE {
            return Err(ChannelError::TooLarge(plain.len()));
        }
        self.wire.resize(plain.len() + TAG, 0);
        let length = self.noise.write_message(&plain, &mut self.wire)?;
        write_frame(&mut self.stream, &self.wire[..length]).await
    }

    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, ChannelError> {
        let frame = read_frame(&mut self.stream).await?;
        self.wire.resize(frame.len(), 0);
        let length = self.noise.read_message(&frame, &mut self.wire)?;
        Ok(serde_json::from_slice(&self.wire[..length])?)
    }

    /// Returns when the other side has closed the connection, or has said something unasked.
    pub async fn closed(&mut self) {
        let mut byte = [0];
        // Whatever comes, the conversation is over: nobody may speak while the other streams.
        let _ = self.stream.read(&mut byte).await;
    }
}

fn builder() -> Result<Builder<'static>, snow::Error> {
    Builder::new(NOISE_PATTERN.parse()?).prologue(PROLOGUE)
}

async fn write_handshake<S: AsyncWrite + Unpin>(
    stream: &mut S,
    noise: &mut HandshakeState,
) -> Result<(), ChannelError> {
    let mut message = [0; 128];
    let length = noise.write_message(&[], &mut message)?;
    write_frame(stream, &message[..length]).await
}

async fn read_handshake<S: AsyncRead + Unpin>(
    stream: &mut S,
    noise: &mut HandshakeState,
) -> Result<(), ChannelError> {
    let frame = read_frame(stream).await?;
    // The handshake carries no payload, so any room suffices.
    noise.read_message(&frame, &mut vec![0; frame.len()])?;
    Ok(())
}

async fn write_frame<S: AsyncWrite + Unpin>(
    stream: &mut S,
    frame: &[u8],
) -> Result<(), ChannelError> {
    let length = u16::try_from(frame.len()).map_err(|_| ChannelError::TooLarge(frame.len()))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(frame).await?;
    stream.flush().await?;
    Ok(())
}

async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, ChannelError> {
    let length = stream.read_u16().await?;
    let mut frame = vec![0; length.into()];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> snow::Keypair {
        builder().unwrap().generate_keypair().unwrap()
    }

    #[tokio::test]
    async fn carries_messages_both_ways_and_both_agree_on_the_challenge() {
        let node = keys();
        let (ours, theirs) = tokio::io::duplex(4096);
        let (public, private) = (
            node.public.try_into().unwrap(),
            node.private.try_into().unwrap(),
        );
        let (tenant, node) = tokio::join!(
            Channel::connect(ours, &public),
            Channel::accept(theirs, &private)
        );
        let (mut tenant, mut node) = (tenant.unwrap(), node.unwrap());
        assert_eq!(tenant.challenge(), node.challenge());
        tenant.send(&"question").await.unwrap();
        assert_eq!(node.receive::<String>().await.unwrap(), "question");
        node.send(&"answer").await.unwrap();
        assert_eq!(tenant.receive::<String>().await.unwrap(), "answer");
    }

    #[tokio::test]
    async fn an_impostor_is_found_out() {
        let (node, impostor) = (keys(), keys());
        let (ours, theirs) = tokio::io::duplex(4096);
        let (public, private) = (
            node.public.try_into().unwrap(),
            impostor.private.try_into().unwrap(),
        );
        let (tenant, _) = tokio::join!(
            Channel::connect(ours, &public),
            Channel::accept(theirs, &private)
        );
        assert!(tenant.is_err());
    }

    #[tokio::test]
    async fn a_changed_bit_is_found_out() {
        let node = keys();
        let (ours, theirs) = tokio::io::duplex(4096);
        let (public, private) = (
            node.public.try_into().unwrap(),
            node.private.try_into().unwrap(),
        );
        let (tenant, node) = tokio::join!(
            Channel::connect(ours, &public),
            Channel::accept(theirs, &private)
        );
        let (mut tenant, mut node) = (tenant.unwrap(), node.unwrap());
        let mut wire = [0; 64];
        let length = tenant.noise.write_message(b"\"x\"", &mut wire).unwrap();
        wire[0] ^= 1;
        write_frame(&mut tenant.stream, &wire[..length])
            .await
            .unwrap();
        assert!(matches!(
            node.receive::<String>().await,
            Err(ChannelError::Noise(_))
        ));
    }
}
