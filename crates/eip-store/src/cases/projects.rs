//! Projects.

use eip_model::{EventKind, Project, ProjectName};

use crate::error::{Refusal, StoreError};
use crate::news::NewEvent;
use crate::pages::Page;
use crate::records::By;
use crate::rows::{Cells, Wrong};
use crate::transaction::{Failure, Tx, UseCase};
use crate::value::{Statement, values};

const PROJECT: &str = "SELECT name, quota, held, created_at FROM project";

fn project(row: &impl Cells) -> Result<Project, StoreError> {
    let read = || -> Result<_, Wrong> {
        let quota = row.int("quota")?.map(u32::try_from).transpose();
        Ok(Project {
            name: row.parsed("name")?,
            // One that is beyond what fits is none.
            quota: quota.unwrap_or_default(),
            allocated: row.number("held")?,
            created_at: row.moment("created_at")?,
        })
    };
    read().map_err(|e| e.within("project"))
}

async fn find<T: Tx>(tx: &mut T, name: &ProjectName, lock: &str) -> Result<Project, Failure> {
    let sql = format!("{PROJECT} WHERE name = $1{lock}");
    let row = tx.row(&sql, values![name]).await?;
    Ok(project(&row.ok_or(Refusal::ProjectNotFound)?)?)
}

/// How events tell a quota.
fn told(quota: Option<u32>) -> String {
    quota.map_or_else(|| "no quota".to_owned(), |quota| format!("a quota of {quota}"))
}

fn event(kind: EventKind, by: &By, name: &ProjectName, detail: String) -> NewEvent {
    NewEvent::about(kind, by, detail).named(name).of(Some(name))
}

/// Makes a project, unless there is one of its name.
pub(super) async fn new_project<T: Tx>(
    tx: &mut T,
    name: &ProjectName,
    quota: Option<u32>,
    by: &By,
) -> Result<Option<Project>, Failure> {
    let made = tx
        .row(
            "INSERT INTO project (name, quota, created_at) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING RETURNING name, quota, held, created_at",
            values![name, quota, by.at],
        )
        .await?;
    let Some(made) = made else { return Ok(None) };
    // Who had an address is told by the name of the project: nobody gets another one's history. Asked
    // now, as a deletion that was under way is over.
    let sql = "SELECT name FROM deleted_project WHERE name = $1";
    if tx.row(sql, values![name]).await?.is_some() {
        return Err(Refusal::NameRetired.into());
    }
    tx.tell(event(EventKind::ProjectCreated, by, name, format!("with {}", told(quota))));
    Ok(Some(project(&made)?))
}

#[derive(Debug)]
pub(super) struct FindProject {
    pub(super) name: ProjectName,
}

impl UseCase for FindProject {
    type Answer = Option<Project>;
    const DOING: &'static str = "find a project";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Option<Project>, Failure> {
        let row = tx.row(&format!("{PROJECT} WHERE name = $1"), values![&self.name]).await?;
        Ok(row.as_ref().map(project).transpose()?)
    }
}

#[derive(Debug)]
pub(super) struct ListProjects {
    pub(super) page: Page<ProjectName>,
}

impl UseCase for ListProjects {
    type Answer = Vec<Project>;
    const DOING: &'static str = "list the projects";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Vec<Project>, Failure> {
        let mut list = Statement::new(PROJECT, values![]);
        if let Some(after) = &self.page.after {
            list.add(" WHERE name > ?", values![after]);
        }
        list.add(" ORDER BY name LIMIT ?", values![self.page.limit]);
        let found = tx.rows(&list.text, &list.values).await?;
        Ok(found.iter().map(project).collect::<Result<_, _>>()?)
    }
}

#[derive(Debug)]
pub(super) struct CreateProject {
    pub(super) name: ProjectName,
    pub(super) quota: Option<u32>,
    pub(super) by: By,
}

impl UseCase for CreateProject {
    type Answer = Project;
    const DOING: &'static str = "make a project";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Project, Failure> {
        let made = new_project(tx, &self.name, self.quota, &self.by).await?;
        made.ok_or_else(|| Refusal::Exists.into())
    }
}

#[derive(Debug)]
pub(super) struct SetQuota {
    pub(super) name: ProjectName,
    pub(super) quota: Option<Option<u32>>,
    pub(super) by: By,
}

impl UseCase for SetQuota {
    type Answer = Project;
    const DOING: &'static str = "change a project";

    async fn run<T: Tx>(&self, tx: &mut T) -> Result<Project, Failure> {
        let before = find(tx, &self.name, " FOR UPDATE").await?;
        let Some(quota) = self.quota.filter(|quota| *quota != before.quota) else {
            return Ok(before);
        };
        tx.run("UPDATE project SET quota = $2 WHERE name = $1", values![&self.name, quota]).await?;
        let detail = format!("{} in place of {}", told(quota), told(before.quota));
        tx.tell(event(EventKind::ProjectUpdated, &self.by, &self.name, detail));
        Ok(Project { quota, ..before })
    }
}

#[derive(Debug)]
pub(super) struct DeleteProject {
    pub(super) name: ProjectName,
    pub(super) by: By,
}

impl UseCase for DeleteProject {
    type Answer = ();
    const DOING: &'static str = "delete a project";

    /// Who allocates for it locks its row, and finds none when this is committed first.
    async fn run<T: Tx>(&self, tx: &mut T) -> Result<(), Failure> {
        let found = find(tx, &self.name, " FOR UPDATE").await?;
        if found.allocated > 0 {
            let what = format!("it holds {} elastic IPs", found.allocated);
            return Err(Refusal::ProjectInUse { what }.into());
        }
        let key = tx
            .row(
                "SELECT id FROM api_key
                  WHERE project = $1 AND revoked_at IS NULL
                    AND (expires_at IS NULL OR expires_at > $2) LIMIT 1",
                values![&self.name, self.by.at],
            )
            .await?;
        if let Some(key) = key {
            let id = key.words("id").map_err(|e| e.within("api_key"))?;
            let what = format!("API key {id} is good for it");
            return Err(Refusal::ProjectInUse { what }.into());
        }
        tx.run("DELETE FROM project WHERE name = $1", values![&self.name]).await?;
        let sql = "INSERT INTO deleted_project (name, deleted_at) VALUES ($1, $2)";
        tx.run(sql, values![&self.name, self.by.at]).await?;
        let detail = "with its webhooks".to_owned();
        tx.tell(event(EventKind::ProjectDeleted, &self.by, &self.name, detail));
        Ok(())
    }
}
