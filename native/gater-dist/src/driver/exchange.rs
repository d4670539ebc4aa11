//! Reads and writes handshake messages on a socket: a length of two bytes and the message.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::HandshakeError;
use crate::protocol::handshake::MAX_MESSAGE;

/// Reads the first message. Returns `None` if the peer closes the socket before it, and an error
/// that names the protocol if the peer speaks another one.
pub async fn read_first(socket: &mut TcpStream) -> Result<Option<Vec<u8>>, HandshakeError> {
    let Some(length) = read_length(socket).await? else { return Ok(None) };
    if let Some(protocol) = other_protocol(length) {
        return Err(HandshakeError::NotErlang(protocol));
    }
    read_rest(socket, length).await
}

/// Reads one message. Returns `None` if the peer closes the socket before it.
pub async fn read(socket: &mut TcpStream) -> Result<Option<Vec<u8>>, HandshakeError> {
    let Some(length) = read_length(socket).await? else { return Ok(None) };
    read_rest(socket, length).await
}

/// Returns the name of a protocol whose messages begin with bytes that cannot be the length of a
/// handshake message.
fn other_protocol(start: [u8; 2]) -> Option<&'static str> {
    match &start {
        // A handshake record of any version.
        [0x16, 0x03] => Some("TLS, while this port takes plain distribution"),
        // The record is an alert, with which a TLS server answers other protocols.
        [0x15, 0x03] => Some("TLS, and was spoken to without it"),
        b"HT" => Some("HTTP"),
        b"GE" | b"PO" | b"PU" | b"HE" | b"DE" | b"OP" | b"PA" | b"CO" | b"TR" | b"PR" => {
            Some("HTTP")
        }
        b"SS" => Some("SSH"),
        // Distribution over TLS, once decrypted, has lengths of four bytes.
        [0, 0] => Some("a handshake with longer lengths or none, as distribution over TLS does"),
        _ if usize::from(u16::from_be_bytes(start)) > MAX_MESSAGE => Some("no known protocol"),
        _ => None,
    }
}

async fn read_length(socket: &mut TcpStream) -> Result<Option<[u8; 2]>, HandshakeError> {
    let mut length = [0; 2];
    match socket.read_exact(&mut length).await {
        Ok(_) => Ok(Some(length)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn read_rest(
    socket: &mut TcpStream,
    length: [u8; 2],
) -> Result<Option<Vec<u8>>, HandshakeError> {
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

/// Writes several messages with one write.
pub async fn write(socket: &mut TcpStream, messages: &[Vec<u8>]) -> Result<(), HandshakeError> {
    let mut out = Vec::new();
    for message in messages {
        out.extend((message.len() as u16).to_be_bytes());
        out.extend_from_slice(message);
    }
    Ok(socket.write_all(&out).await?)
}
