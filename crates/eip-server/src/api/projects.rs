//! `/projects`.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use eip_model::{CreateProjectRequest, Project, ProjectList, UpdateProjectRequest};

use super::body::{Params, Segment};
use super::cursor::PageParams;
use super::openapi::{DryRun, OnceHeader, problems};
use super::{ApiState, body, finish};
use crate::service::{Asked, Caller, Done, Error};

problems! {
    looks Listing: ;
    looks OfProject: ProjectNotFound;
    takes Creating: NameInUse IdempotencyConflict;
    takes Changing: ProjectNotFound;
    looks Deleting: ProjectNotFound ProjectInUse;
}

/// List projects
#[utoipa::path(
    get, path = "/projects", tag = "administration", operation_id = "list_projects",
    params(PageParams),
    responses((status = 200, description = "A page of the projects, by name.", body = ProjectList), Listing)
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<ProjectList>, Error> {
    let (page, turn) = params.of("projects", &state)?;
    let mut items = state.service.projects(&caller, page).await?;
    let next_cursor = turn.end(&mut items, |project| project.name.clone());
    Ok(Json(ProjectList { items, next_cursor }))
}

/// Show a project
#[utoipa::path(
    get, path = "/projects/{name}", tag = "administration", operation_id = "show_project",
    params(("name" = String, Path, example = "acme", description = "The name of the project.")),
    responses((status = 200, description = "The project.", body = Project), OfProject)
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
) -> Result<Json<Project>, Error> {
    state.service.project(&caller, &named).await.map(Json)
}

/// Make a project
#[utoipa::path(
    post, path = "/projects", tag = "administration", operation_id = "create_project",
    params(OnceHeader, DryRun),
    request_body = CreateProjectRequest,
    responses(
        (status = 201, description = "The project was made.", body = Project),
        (status = 200, description = "The project that would be made.", body = Project),
        Creating
    )
)]
pub(crate) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    asked: Asked,
    body::Json(request): body::Json<CreateProjectRequest>,
) -> Result<Response, Error> {
    let made = async move { state.service.make_project(&caller, request, &asked).await };
    Ok(finish(made).await?.made(|project| format!("/projects/{}", project.name)))
}

/// Change the quota of a project
#[utoipa::path(
    patch, path = "/projects/{name}", tag = "administration", operation_id = "update_project",
    params(("name" = String, Path, example = "acme", description = "The name of the project."), DryRun),
    request_body = UpdateProjectRequest,
    responses((status = 200, description = "The project as it is then.", body = Project), Changing)
)]
pub(crate) async fn update(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
    asked: Asked,
    body::Json(request): body::Json<UpdateProjectRequest>,
) -> Result<Response, Error> {
    let changed =
        async move { state.service.update_project(&caller, &named, request, &asked).await };
    finish(changed).await.map(Done::changed)
}

/// Delete a project
///
/// One that holds nothing and has no good key. The history of its addresses stays.
#[utoipa::path(
    delete, path = "/projects/{name}", tag = "administration", operation_id = "delete_project",
    params(("name" = String, Path, example = "acme", description = "The name of the project."), DryRun),
    responses((status = 204, description = "It was deleted."), Deleting)
)]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(named): Segment,
    asked: Asked,
) -> Result<Done<()>, Error> {
    finish(async move { state.service.delete_project(&caller, &named, &asked).await }).await
}
