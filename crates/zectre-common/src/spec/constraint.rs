//! Conditions on node labels, written `region=eu`, `disk!=hdd`, `gpu` (has the label) or `!gpu`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::BTreeMap, fmt, str::FromStr};
use utoipa::{PartialSchema, ToSchema, openapi};

/// Labels of a node or an application.
pub type Labels = BTreeMap<String, String>;

/// How a label is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstraintOperator {
    /// The label has this value.
    Equals(String),
    /// The label is missing or has another value.
    Differs(String),
    /// The label is there.
    Exists,
    /// The label is missing.
    Missing,
}

/// One condition; a node must meet all of a deployment's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// The label looked at.
    pub label: String,
    /// How.
    pub operator: ConstraintOperator,
}

impl Constraint {
    /// Whether a node with these labels meets it.
    pub fn is_met_by(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.label);
        match &self.operator {
            ConstraintOperator::Equals(wanted) => value == Some(wanted),
            ConstraintOperator::Differs(unwanted) => value != Some(unwanted),
            ConstraintOperator::Exists => value.is_some(),
            ConstraintOperator::Missing => value.is_none(),
        }
    }
}

impl FromStr for Constraint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (label, operator) = if let Some((label, value)) = text.split_once("!=") {
            (label, ConstraintOperator::Differs(value.trim().into()))
        } else if let Some((label, value)) = text.split_once('=') {
            (label, ConstraintOperator::Equals(value.trim().into()))
        } else if let Some(label) = text.strip_prefix('!') {
            (label, ConstraintOperator::Missing)
        } else {
            (text, ConstraintOperator::Exists)
        };
        let label = label.trim();
        let is_label = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if label.is_empty() || label.len() > 63 || !label.chars().all(is_label) {
            return Err(format!(
                "`{}` is not a constraint: write `label=value`, `label!=value`, `label` or `!label`",
                text.chars().take(64).collect::<String>()
            ));
        }
        Ok(Self {
            label: label.into(),
            operator,
        })
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.operator {
            ConstraintOperator::Equals(value) => write!(f, "{}={value}", self.label),
            ConstraintOperator::Differs(value) => write!(f, "{}!={value}", self.label),
            ConstraintOperator::Exists => write!(f, "{}", self.label),
            ConstraintOperator::Missing => write!(f, "!{}", self.label),
        }
    }
}

impl PartialSchema for Constraint {
    fn schema() -> openapi::RefOr<openapi::Schema> {
        String::schema()
    }
}

impl ToSchema for Constraint {}

impl Serialize for Constraint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Constraint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_means_what_it_says() {
        let labels = Labels::from([("region".into(), "eu".into())]);
        let met = |text: &str| text.parse::<Constraint>().expect("valid").is_met_by(&labels);
        assert!(met("region=eu") && met("region") && met("!gpu") && met("region!=us") && met("disk!=hdd"));
        assert!(!met("region=us") && !met("!region") && !met("gpu") && !met("region!=eu"));
        assert!("=eu".parse::<Constraint>().is_err());
    }
}
