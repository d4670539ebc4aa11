//! Control messages, the tuples in front of payloads, which are read in place.
//!
//! Source: "Protocol between Connected Nodes", ERTS User's Guide.

/// A process identifier within the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawPid<'a> {
    /// The whole encoded pid, which replies repeat.
    pub raw: &'a [u8],
    /// The text of its node.
    pub node: &'a [u8],
    /// The process number.
    pub id: u32,
    /// The high part of the process number.
    pub serial: u32,
    /// The incarnation of its node.
    pub creation: u32,
}

/// A process or a registered name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process<'a> {
    /// A process, by its pid.
    Pid(RawPid<'a>),
    /// A registered name.
    Name {
        /// The whole encoded atom, which replies repeat.
        raw: &'a [u8],
        /// The text of the name.
        text: &'a [u8],
    },
}

impl<'a> Process<'a> {
    /// Returns the encoded pid or name.
    pub fn raw(&self) -> &'a [u8] {
        match self {
            Self::Pid(pid) => pid.raw,
            Self::Name { raw, .. } => raw,
        }
    }
}

/// A control message. References and unlink ids are encoded terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control<'a> {
    /// A message to a process or a name (ops 2, 6, 12, 16, 22, 23).
    Send {
        /// The sender, if the message names it.
        from: Option<RawPid<'a>>,
        /// The receiver.
        to: Process<'a>,
    },
    /// A message to an alias (ops 33, 34).
    SendAlias {
        /// The sender, if the message names it.
        from: Option<RawPid<'a>>,
        /// The alias.
        to: &'a [u8],
    },
    /// A link of a process of the peer to a process of this node (op 1).
    Link {
        /// The process of the peer.
        from: RawPid<'a>,
        /// The process of this node.
        to: RawPid<'a>,
    },
    /// A process has ended that is linked to a process of this node (ops 3, 24).
    Exit {
        /// The process that has ended.
        from: RawPid<'a>,
        /// The process of this node.
        to: RawPid<'a>,
        /// The reason, if it is in the control message and not in the payload.
        reason: Option<&'a [u8]>,
    },
    /// The removal of a link (op 35), which must be acknowledged before anything else.
    UnlinkId {
        /// The id that the acknowledgement repeats.
        id: &'a [u8],
        /// The process of the peer.
        from: RawPid<'a>,
        /// The process of this node.
        to: RawPid<'a>,
    },
    /// A monitor of a process of this node (op 19).
    Monitor {
        /// The process of the peer.
        from: RawPid<'a>,
        /// The process of this node.
        to: Process<'a>,
        /// The reference of the monitor.
        reference: &'a [u8],
    },
    /// A monitored process has ended (ops 21, 28).
    MonitorExit {
        /// The process that has ended.
        from: Process<'a>,
        /// The monitoring process of this node.
        to: RawPid<'a>,
        /// The reference of the monitor.
        reference: &'a [u8],
        /// The reason, if it is in the control message and not in the payload.
        reason: Option<&'a [u8]>,
    },
    /// An exit signal that was sent explicitly, as by `exit/2` (ops 8, 26).
    ExitSignal {
        /// The process that has sent it.
        from: RawPid<'a>,
        /// The process of this node.
        to: RawPid<'a>,
        /// The reason, if it is in the control message and not in the payload.
        reason: Option<&'a [u8]>,
    },
    /// The end of a monitor (op 20).
    Demonitor {
        /// The process of the peer.
        from: RawPid<'a>,
        /// The reference of the monitor.
        reference: &'a [u8],
    },
    /// A request to spawn a process (ops 29, 30).
    SpawnRequest {
        /// The reference of the request.
        request: &'a [u8],
        /// The process of the peer.
        from: RawPid<'a>,
    },
    /// A known operation that requires nothing of processes that never end.
    Ignored {
        /// The operation.
        op: u64,
    },
    /// An operation that was not negotiated.
    Unknown {
        /// The operation.
        op: u64,
    },
}

impl Control<'_> {
    /// Returns whether a payload must follow and is used.
    pub fn needs_payload(&self) -> bool {
        matches!(
            self,
            Self::Send { .. }
                | Self::SendAlias { .. }
                | Self::Exit { reason: None, .. }
                | Self::MonitorExit { reason: None, .. }
                | Self::ExitSignal { reason: None, .. }
        )
    }

    /// Returns the process that sent the message, if the message names it.
    pub fn sender(&self) -> Option<&RawPid<'_>> {
        match self {
            Self::Send { from, .. } | Self::SendAlias { from, .. } => from.as_ref(),
            Self::Exit { from, .. } | Self::ExitSignal { from, .. } => Some(from),
            _ => None,
        }
    }
}

/// Parses the control message `term`, one whole valid term without the version byte. Returns `None`
/// unless it is a tuple of a known shape.
pub fn parse(term: &[u8]) -> Option<Control<'_>> {
    let mut at = Cursor(term);
    let arity = at.tuple()?;
    let op = at.unsigned()?;
    let control = match (op, arity) {
        (1, 3) => Control::Link { from: at.pid()?, to: at.pid()? },
        // SEND, SEND_TT, SEND_SENDER, SEND_SENDER_TT: an unused element or the sender, then the
        // receiver.
        (2 | 22, 3) | (12 | 23, 4) => {
            Control::Send { from: at.sender()?, to: Process::Pid(at.pid()?) }
        }
        // REG_SEND, REG_SEND_TT: the sender, an unused element, then the name.
        (6, 4) | (16, 5) => {
            let from = at.pid()?;
            at.skip_small()?;
            Control::Send { from: Some(from), to: at.name()? }
        }
        (3, 4) => Control::Exit { from: at.pid()?, to: at.pid()?, reason: Some(at.0) },
        (24, 3) => Control::Exit { from: at.pid()?, to: at.pid()?, reason: None },
        (8, 4) => Control::ExitSignal { from: at.pid()?, to: at.pid()?, reason: Some(at.0) },
        (26, 3) => Control::ExitSignal { from: at.pid()?, to: at.pid()?, reason: None },
        (20, 4) => {
            let from = at.pid()?;
            at.process()?;
            Control::Demonitor { from, reference: at.reference()? }
        }
        // UNLINK, NODE_LINK, GROUP_LEADER, the _TT forms of EXIT and EXIT2, SPAWN_REPLY,
        // UNLINK_ID_ACK.
        (4, 3) | (5, 1) | (7, 3) | (13 | 18, 5) | (25 | 27, 4) | (31, 5) | (32, 6) | (36, 4) => {
            Control::Ignored { op }
        }
        (19, 4) => {
            Control::Monitor { from: at.pid()?, to: at.process()?, reference: at.reference()? }
        }
        (21, 5) => Control::MonitorExit {
            from: at.process()?,
            to: at.pid()?,
            reference: at.reference()?,
            reason: Some(at.0),
        },
        (28, 4) => Control::MonitorExit {
            from: at.process()?,
            to: at.pid()?,
            reference: at.reference()?,
            reason: None,
        },
        (29, 6) | (30, 7) => Control::SpawnRequest { request: at.reference()?, from: at.pid()? },
        (33, 3) | (34, 4) => Control::SendAlias { from: at.sender()?, to: at.reference()? },
        (35, 4) => Control::UnlinkId { id: at.integer()?, from: at.pid()?, to: at.pid()? },
        (1..=8 | 12 | 13 | 16 | 18..=36, _) => return None,
        _ => Control::Unknown { op },
    };
    Some(control)
}

const SMALL_INTEGER: u8 = 97;
const INTEGER: u8 = 98;
const ATOM: u8 = 100;
const PID: u8 = 103;
const SMALL_TUPLE: u8 = 104;
const LARGE_TUPLE: u8 = 105;
const NIL: u8 = 106;
const SMALL_BIG: u8 = 110;
const NEW_REFERENCE: u8 = 114;
const SMALL_ATOM: u8 = 115;
const NEW_PID: u8 = 88;
const NEWER_REFERENCE: u8 = 90;
const ATOM_UTF8: u8 = 118;
const SMALL_ATOM_UTF8: u8 = 119;

/// A cursor over terms that are known to be valid. Its methods return `None` for other terms.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        let (head, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*head))
    }

    fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*head))
    }

    fn tuple(&mut self) -> Option<u32> {
        match self.byte()? {
            SMALL_TUPLE => self.byte().map(u32::from),
            LARGE_TUPLE => self.u32(),
            _ => None,
        }
    }

    /// Reads an operation code.
    fn unsigned(&mut self) -> Option<u64> {
        match self.byte()? {
            SMALL_INTEGER => self.byte().map(u64::from),
            INTEGER => self.u32().filter(|n| *n <= i32::MAX as u32).map(u64::from),
            _ => None,
        }
    }

    /// Reads an integer and returns its encoded bytes.
    fn integer(&mut self) -> Option<&'a [u8]> {
        let start = self.0;
        match self.byte()? {
            SMALL_INTEGER => self.take(1)?,
            INTEGER => self.take(4)?,
            SMALL_BIG => {
                let len = self.byte()?;
                self.take(1 + usize::from(len))?
            }
            _ => return None,
        };
        start.get(..start.len() - self.0.len())
    }

    /// Reads an atom and returns its text. Latin-1 is not converted, since node names and
    /// registered names are ASCII, in which the two encodings agree.
    fn atom(&mut self) -> Option<&'a [u8]> {
        let len = match self.byte()? {
            SMALL_ATOM_UTF8 | SMALL_ATOM => usize::from(self.byte()?),
            ATOM_UTF8 | ATOM => usize::from(self.u16()?),
            _ => return None,
        };
        self.take(len)
    }

    fn pid(&mut self) -> Option<RawPid<'a>> {
        let start = self.0;
        let wide = match self.byte()? {
            NEW_PID => true,
            PID => false,
            _ => return None,
        };
        let node = self.atom()?;
        let (id, serial) = (self.u32()?, self.u32()?);
        let creation = if wide { self.u32()? } else { u32::from(self.byte()?) };
        let raw = start.get(..start.len() - self.0.len())?;
        Some(RawPid { raw, node, id, serial, creation })
    }

    fn name(&mut self) -> Option<Process<'a>> {
        let start = self.0;
        let text = self.atom()?;
        Some(Process::Name { raw: start.get(..start.len() - self.0.len())?, text })
    }

    fn process(&mut self) -> Option<Process<'a>> {
        match self.0.first()? {
            &NEW_PID | &PID => self.pid().map(Process::Pid),
            _ => self.name(),
        }
    }

    fn reference(&mut self) -> Option<&'a [u8]> {
        let start = self.0;
        let creation = match self.byte()? {
            NEWER_REFERENCE => 4,
            NEW_REFERENCE => 1,
            _ => return None,
        };
        let words = usize::from(self.u16()?);
        self.atom()?;
        self.take(creation + 4 * words)?;
        start.get(..start.len() - self.0.len())
    }

    /// Reads a sender or an unused element.
    fn sender(&mut self) -> Option<Option<RawPid<'a>>> {
        match self.0.first()? {
            &NEW_PID | &PID => self.pid().map(Some),
            _ => self.skip_small().map(|()| None),
        }
    }

    /// Passes an unused element, which in practice is `''`.
    fn skip_small(&mut self) -> Option<()> {
        match self.0.first()? {
            &NEW_PID | &PID => self.pid().map(drop),
            &SMALL_INTEGER | &INTEGER | &SMALL_BIG => self.integer().map(drop),
            &NIL => self.byte().map(drop),
            // Some libraries send `{}` here.
            &SMALL_TUPLE => self.tuple().filter(|arity| *arity == 0).map(drop),
            _ => self.atom().map(drop),
        }
    }
}

#[cfg(test)]
mod tests;
