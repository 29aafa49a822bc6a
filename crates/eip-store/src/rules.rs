//! The constraints of the schema, by name, and what it means to meet one.

use crate::error::{Refusal, StoreError};
use crate::transaction::Failure;

/// What a statement meant when it met a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    NameInUse,
    AddressInUse,
    /// Somebody else was there in the meantime; the next attempt sees it and says which.
    LostRace,
}

/// One constraint that a caller can meet: PostgreSQL's name of it, what SQLite says (which names
/// the columns of a unique constraint), and the meaning. Every other constraint can be met by a
/// mistake of the program only.
const RULES: &[(&str, &str, Meaning)] = &[
    ("elastic_ip_name_in_project", "elastic_ip.project, elastic_ip.name", Meaning::NameInUse),
    ("elastic_ip_pkey", "elastic_ip.address", Meaning::AddressInUse),
    ("association_pkey", "association.address", Meaning::LostRace),
    ("association_one_per_instance", "association.instance_id", Meaning::LostRace),
    // SQLite does not name a foreign key, and its one writer does not race.
    ("association_instance_fkey", "(association.instance_id)", Meaning::LostRace),
    ("association_address_fkey", "(association.address)", Meaning::LostRace),
];

const TABLES: &[&str] = &[
    "elastic_ip",
    "association",
    "attachment_problem",
    "past_allocation",
    "letting_go",
    "instance",
    "pool_range",
    "pool",
    "api_key",
    "project",
    "cluster",
    "host",
    "event",
    "webhook",
    "deleted_project",
];

/// Says what it means that PostgreSQL named this constraint.
pub(crate) fn met_by_name(
    name: &str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Failure {
    let rule = RULES.iter().find(|(constraint, _, _)| *constraint == name);
    met(rule.map(|(_, _, meaning)| *meaning), name, source)
}

/// Says what it means that SQLite said this about a constraint.
pub(crate) fn met_by_message(
    message: &str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Failure {
    let told = message.split_once("constraint failed: ").map_or(message, |(_, told)| told);
    let rule = RULES.iter().find(|(_, columns, _)| *columns == told);
    met(rule.map(|(_, _, meaning)| *meaning), told, source)
}

fn met(
    meaning: Option<Meaning>,
    told: &str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Failure {
    match meaning {
        Some(Meaning::NameInUse) => Refusal::NameInUse.into(),
        Some(Meaning::AddressInUse) => Refusal::AddressInUse.into(),
        Some(Meaning::LostRace) => Failure::Again(Box::new(source)),
        None => {
            let table = TABLES.iter().find(|table| told.starts_with(**table)).copied();
            let what = format!("constraint {told} stands against a change");
            StoreError::Corrupt { table: table.unwrap_or("unknown"), what }.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> std::io::Error {
        std::io::Error::other("driver")
    }

    #[test]
    fn a_constraint_means_the_same_in_both_databases() {
        for (name, columns, _) in RULES {
            let by_name = format!("{:?}", met_by_name(name, source()));
            let message = format!("UNIQUE constraint failed: {columns}");
            assert_eq!(by_name, format!("{:?}", met_by_message(&message, source())));
        }
    }

    #[test]
    fn a_constraint_that_no_caller_can_meet_is_told_with_its_table() {
        let met =
            met_by_message("CHECK constraint failed: elastic_ip_id_stands_for_address", source());
        let Failure::Store(StoreError::Corrupt { table, what }) = met else {
            panic!("{met:?}");
        };
        assert_eq!(table, "elastic_ip");
        assert!(what.contains("elastic_ip_id_stands_for_address"));
    }
}
