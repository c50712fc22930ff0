//! `zectre schema`

use crate::output::{Output, Shown};
use zectre_common::manifest::json_schema;

/// JSON either way: that is what editors read.
pub(crate) fn run(output: Output) -> Shown {
    let schema = json_schema();
    output.value(&schema, |schema| output.data(format!("{schema:#}")))
}
