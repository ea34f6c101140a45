//! The encodings of trits as values of an option.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use tern_format::packed::Encoding;

/// What `--encoding` takes.
pub(crate) fn parser() -> impl TypedValueParser<Value = Encoding> {
    PossibleValuesParser::new(Encoding::ALL.map(Encoding::name))
        .try_map(|name| name.parse::<Encoding>())
}
