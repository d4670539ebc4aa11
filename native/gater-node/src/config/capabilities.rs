//! Which capability tokens a gateway asks for.

use super::error::ConfigError;
use super::sources::Sources;
use super::value;

/// Whether publishers and subscribers need a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Tokens are not looked at.
    #[default]
    Disabled,
    /// Who has a token is judged by it; nobody needs one.
    Optional,
    /// Nobody publishes or subscribes without a token.
    Required,
}

/// Which tokens hold.
#[derive(Debug, Clone, Default)]
pub struct Capabilities {
    /// Whether tokens are needed.
    pub mode: Mode,
    /// Who may grant, by `did:key`.
    pub roots: Vec<String>,
    /// Who tokens may be made out to, by `did:key`; anybody if nobody is named.
    pub audience: Vec<String>,
}

/// The section `capabilities`.
pub fn load(sources: &mut Sources) -> Result<Capabilities, ConfigError> {
    let mode = sources.take("capabilities.mode", value::capability_mode)?;
    let flat = sources.take("capability_mode", value::capability_mode)?;
    let roots = sources.take("capabilities.roots", value::dids)?.unwrap_or_default();
    let audience = sources.take("capabilities.audience", value::dids)?.unwrap_or_default();
    if roots.is_empty() && mode.is_some_and(|mode| mode != Mode::Disabled) {
        return Err(sources.bad(
            "capabilities.roots",
            "must name at least one did:key, or capabilities.mode be \"disabled\"",
        ));
    }
    let asked = mode.or(flat).unwrap_or_default();
    if roots.is_empty() && asked != Mode::Disabled {
        sources.warn(
            "capability_mode has no effect: capabilities.roots names nobody who may grant".into(),
        );
        return Ok(Capabilities { mode: Mode::Disabled, roots, audience });
    }
    Ok(Capabilities { mode: asked, roots, audience })
}
