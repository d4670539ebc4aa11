//! Requests to the observer.

use gater_term::Reader;

use crate::observe::report::{DEFAULT_LIMIT, MAX_LIMIT, Options, Section, Sort};

/// The greatest number of options of a request.
const MAX_OPTIONS: u32 = 16;
/// The length of the longest name that is repeated in an answer, in characters.
const MAX_NAME_CHARACTERS: usize = 100;

/// A request to the observer.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// A section of the report.
    Report(Section, Options),
    /// An order, and its seal.
    Admin(&'a str, &'a [u8]),
    /// A request for the time.
    Time,
}

/// The reason why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// The request is unknown.
    Unknown,
    /// The section does not exist.
    Section(String),
    /// An option is unknown, has an invalid value, or is missing.
    Option(String),
}

/// An order to a gateway.
#[derive(Debug, PartialEq, Eq)]
pub enum Order<'a> {
    /// Accept no new work, write queued messages, and stop.
    Drain,
    /// Log the events that this filter admits.
    Log(&'a str),
}

impl<'a> Order<'a> {
    /// Reads `drain` or `log FILTER`.
    pub fn parse(order: &'a str) -> Option<Self> {
        match order.split_once(' ') {
            None if order == "drain" => Some(Self::Drain),
            None if order == "log" => Some(Self::Log("")),
            Some(("log", filter)) => Some(Self::Log(filter)),
            _ => None,
        }
    }
}

impl<'a> Request<'a> {
    /// Reads a request.
    pub fn parse(request: &'a [u8]) -> Result<Self, BadRequest> {
        let unknown = |_| BadRequest::Unknown;
        let mut reader = Reader::new(request);
        if reader.is_atom("time") {
            return Ok(Self::Time);
        }
        reader.tuple_of(3).map_err(unknown)?;
        if reader.is_atom("admin") {
            let order = std::str::from_utf8(reader.binary().map_err(unknown)?);
            let order = order.map_err(|_| BadRequest::Unknown)?;
            return Ok(Self::Admin(order, reader.binary().map_err(unknown)?));
        }
        if !reader.is_atom("report") {
            return Err(BadRequest::Unknown);
        }
        let section = reader.atom().map_err(unknown)?.into_owned();
        let given = Given::read(&mut reader)?;
        let missing = |name: &str| BadRequest::Option(name.to_owned());
        let section = match section.as_str() {
            "all" => Section::All,
            "status" => Section::Status,
            "cluster" => Section::Cluster,
            "peers" => Section::Peers,
            "stores" => Section::Stores,
            "workers" => Section::Workers(given.store.ok_or_else(|| missing("store"))?),
            "channels" => Section::Channels,
            "subscribers" => Section::Subscribers {
                channel: given.channel.ok_or_else(|| missing("channel"))?,
                topic: given.topic.ok_or_else(|| missing("topic"))?,
            },
            "topics" => Section::Topics {
                channel: given.channel.ok_or_else(|| missing("channel"))?,
                pattern: given.topic.unwrap_or_else(|| b"*".to_vec()),
            },
            "slow" => Section::Slow,
            "alarms" => Section::Alarms,
            "lost_connections" => Section::LostConnections,
            "history" => Section::History,
            other => return Err(BadRequest::Section(shortened(other))),
        };
        Ok(Self::Report(section, Options { limit: given.limit, sort: given.sort }))
    }
}

/// The options of a request.
struct Given {
    limit: usize,
    sort: Sort,
    store: Option<String>,
    channel: Option<String>,
    topic: Option<Vec<u8>>,
}

impl Given {
    /// Reads `#{limit, sort, store, channel, topic}`, in which every key is optional.
    fn read(reader: &mut Reader<'_>) -> Result<Self, BadRequest> {
        let mut given = Self {
            limit: DEFAULT_LIMIT,
            sort: Sort::default(),
            store: None,
            channel: None,
            topic: None,
        };
        let count = reader.map().map_err(|_| BadRequest::Unknown)?;
        if count > MAX_OPTIONS {
            return Err(BadRequest::Unknown);
        }
        for _ in 0..count {
            let name = reader.atom().map_err(|_| BadRequest::Unknown)?.into_owned();
            let bad = || BadRequest::Option(shortened(&name));
            let value = reader.skip().map_err(|_| BadRequest::Unknown)?;
            match name.as_str() {
                "limit" => {
                    let limit = Reader::new(value).integer().map_err(|_| bad())?;
                    let limit = usize::try_from(limit).map_err(|_| bad())?;
                    given.limit = limit.min(MAX_LIMIT);
                }
                "sort" => {
                    given.sort = text(value).and_then(|name| Sort::named(&name)).ok_or_else(bad)?;
                }
                "store" => given.store = Some(text(value).ok_or_else(bad)?),
                "channel" => given.channel = Some(text(value).ok_or_else(bad)?),
                "topic" => {
                    let topic = Reader::new(value).binary().map_err(|_| bad())?;
                    given.topic = Some(topic.to_vec());
                }
                _ => return Err(bad()),
            }
        }
        Ok(given)
    }
}

/// Returns the text of an atom, or of a binary that is valid text.
fn text(value: &[u8]) -> Option<String> {
    if let Ok(atom) = Reader::new(value).atom() {
        return Some(atom.into_owned());
    }
    let binary = Reader::new(value).binary().ok()?;
    Some(std::str::from_utf8(binary).ok()?.to_owned())
}

fn shortened(name: &str) -> String {
    name.chars().take(MAX_NAME_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use gater_term::encode;

    use super::*;

    type Write<'a> = &'a dyn Fn(&mut Vec<u8>);

    fn report(section: &str, options: &[(&str, Write<'_>)]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::tuple(&mut out, 3);
        encode::atom(&mut out, "report");
        encode::atom(&mut out, section);
        encode::map(&mut out, options.len() as u32);
        for (name, value) in options {
            encode::atom(&mut out, name);
            value(&mut out);
        }
        out
    }

    #[test]
    fn sections_are_read_with_their_options() {
        let limit: Write<'_> = &|out| encode::uint(out, 1 << 40);
        let sort: Write<'_> = &|out| encode::atom(out, "drops");
        let expected = Options { limit: MAX_LIMIT, sort: Sort::Drops };
        assert_eq!(
            Request::parse(&report("peers", &[("limit", limit), ("sort", sort)])),
            Ok(Request::Report(Section::Peers, expected))
        );
        let store: Write<'_> = &|out| encode::binary(out, b"my_store");
        assert_eq!(
            Request::parse(&report("workers", &[("store", store)])),
            Ok(Request::Report(Section::Workers("my_store".into()), Options::default()))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bad = |request: Vec<u8>| Request::parse(&request).unwrap_err();
        assert_eq!(bad(report("workers", &[])), BadRequest::Option("store".into()));
        assert_eq!(bad(report("nothing", &[])), BadRequest::Section("nothing".into()));
        let negative: Write<'_> = &|out| encode::int(out, -1);
        for option in ["limit", "sort", "topic", "colour"] {
            let request = report("peers", &[(option, negative)]);
            assert_eq!(bad(request), BadRequest::Option(option.into()));
        }
        assert_eq!(Request::parse(&[]).unwrap_err(), BadRequest::Unknown);
        let whole = report("peers", &[("limit", &|out| encode::uint(out, 5))]);
        for end in 0..whole.len() {
            assert!(Request::parse(&whole[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn orders_are_words() {
        assert_eq!(Order::parse("drain"), Some(Order::Drain));
        assert_eq!(
            Order::parse("log gater_dist=debug,info"),
            Some(Order::Log("gater_dist=debug,info"))
        );
        assert_eq!(Order::parse("log"), Some(Order::Log("")));
        assert_eq!(Order::parse("drain now"), None);
        assert_eq!(Order::parse(""), None);
    }
}
