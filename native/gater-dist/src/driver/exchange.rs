//! Handshake messages on a socket: a length of two bytes and the message.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::HandshakeError;
use crate::protocol::handshake::MAX_MESSAGE;

/// Reads one message; `None` if the peer closed before it.
pub async fn read(socket: &mut TcpStream) -> Result<Option<Vec<u8>>, HandshakeError> {
    let mut length = [0; 2];
    match socket.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_MESSAGE {
        return Err(HandshakeError::TooLong(length));
    }
    let mut message = vec![0; length];
    match socket.read_exact(&mut message).await {
        Ok(_) => Ok(Some(message)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes messages in one go.
pub async fn write(socket: &mut TcpStream, messages: &[Vec<u8>]) -> Result<(), HandshakeError> {
    let mut out = Vec::new();
    for message in messages {
        out.extend((message.len() as u16).to_be_bytes());
        out.extend_from_slice(message);
    }
    Ok(socket.write_all(&out).await?)
}
