//! The configuration of capability tokens.

use super::error::ConfigError;
use super::sources::Sources;
use super::value;

/// Whether publishers and subscribers need a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Tokens are ignored.
    #[default]
    Disabled,
    /// A token is verified if there is one, but it is not required.
    Optional,
    /// Publishing and subscribing require a token.
    Required,
}

impl Mode {
    /// The word for it in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// The rules by which tokens are accepted.
#[derive(Debug, Clone, Default)]
pub struct Capabilities {
    /// Whether tokens are needed.
    pub mode: Mode,
    /// The root keys that may grant, as `did:key` names.
    pub roots: Vec<String>,
    /// The accepted audiences of tokens, as `did:key` names. If the list is empty, any audience is
    /// accepted.
    pub audience: Vec<String>,
}

/// Loads the section `capabilities`.
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
