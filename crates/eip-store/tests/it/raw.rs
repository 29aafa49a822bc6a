//! Looking into a database, and changing it, behind the back of the record.

use rusqlite::types::Value;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Runs statements on the database at this URL.
pub(crate) async fn execute(url: &str, sql: &str) {
    if let Some(path) = url.strip_prefix("sqlite:") {
        rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
    } else {
        with_client(url, async |client| client.batch_execute(sql).await.unwrap()).await;
    }
}

/// Runs statements that may be refused, and returns what the database says then.
pub(crate) async fn try_execute(url: &str, sql: &str) -> Result<(), String> {
    match url.strip_prefix("sqlite:") {
        Some(path) => {
            let done = rusqlite::Connection::open(path).unwrap().execute_batch(sql);
            done.map_err(|error| error.to_string())
        }
        None => with_client(url, async |client| client.batch_execute(sql).await)
            .await
            .map_err(|error| format!("{error:?}")),
    }
}

/// Returns what a query gives, as text.
pub(crate) async fn ask(url: &str, sql: &str) -> Vec<Vec<String>> {
    match url.strip_prefix("sqlite:") {
        Some(path) => ask_sqlite(path, sql),
        None => with_client(url, async |client| ask_postgres(client, sql).await).await,
    }
}

/// Returns everything that is in a database: tables, rules and rows.
pub(crate) async fn dump(url: &str) -> Vec<String> {
    let (objects, tables, row) = if url.starts_with("sqlite:") {
        let objects = "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2";
        (objects, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1", "*")
    } else {
        let objects = "
            SELECT 'column', table_name || '.' || column_name, data_type || is_nullable
                   || coalesce(column_default, '')
              FROM information_schema.columns WHERE table_schema = 'public'
            UNION ALL SELECT 'constraint', conrelid::regclass || '.' || conname,
                   pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
            UNION ALL SELECT 'index', indexname, indexdef
              FROM pg_indexes WHERE schemaname = 'public'
            ORDER BY 1, 2";
        let tables = "SELECT table_name FROM information_schema.tables
                       WHERE table_schema = 'public' ORDER BY 1";
        (objects, tables, "t::text")
    };
    let mut all: Vec<String> = ask(url, objects).await.iter().map(|row| row.join("|")).collect();
    for table in ask(url, tables).await.concat() {
        let rows = ask(url, &format!("SELECT {row} FROM {table} t")).await;
        let mut rows: Vec<_> = rows.iter().map(|row| row.join("|")).collect();
        rows.sort();
        all.extend(rows.iter().map(|row| format!("{table}: {row}")));
    }
    all
}

async fn with_client<A>(url: &str, work: impl AsyncFnOnce(&mut Client) -> A) -> A {
    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let driving = tokio::spawn(connection);
    let answer = work(&mut client).await;
    drop(client);
    driving.await.unwrap().unwrap();
    answer
}

async fn ask_postgres(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let messages = client.simple_query(sql).await.unwrap();
    let mut rows = Vec::new();
    for message in &messages {
        if let SimpleQueryMessage::Row(row) = message {
            let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL").to_owned());
            rows.push(cells.collect());
        }
    }
    rows
}

fn ask_sqlite(path: &str, sql: &str) -> Vec<Vec<String>> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let mut found = statement.query([]).unwrap();
    let mut rows = Vec::new();
    while let Some(row) = found.next().unwrap() {
        rows.push((0..columns).map(|at| text(&row.get(at).unwrap())).collect());
    }
    rows
}

fn text(cell: &Value) -> String {
    match cell {
        Value::Null => "NULL".to_owned(),
        Value::Integer(int) => int.to_string(),
        Value::Real(real) => real.to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
