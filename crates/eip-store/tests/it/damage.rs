//! Files that are no record any more: refused by name, left as they are, and never a panic.

use std::path::{Path, PathBuf};

use eip_store::{OpenError, open};

use crate::world::{Kind, World, new_allocation, take};

/// A record of some size that was closed.
async fn closed() -> (World, PathBuf) {
    let mut world = World::new(Kind::Sqlite).await;
    for offset in 0..100 {
        take(&world.repo, &new_allocation(offset, "default")).await.unwrap();
    }
    let path = PathBuf::from(world.url.strip_prefix("sqlite:").unwrap());
    // The one and only holder of the file goes.
    let spare = world.folder.path().join("spare.db");
    world.repo = open(&format!("sqlite:{}", spare.display())).await.unwrap();
    (world, path)
}

async fn refused(path: &Path) -> OpenError {
    let before = std::fs::read(path).unwrap();
    let error = open(&format!("sqlite:{}", path.display())).await.unwrap_err();
    assert_eq!(std::fs::read(path).unwrap(), before, "it was changed: {error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    error
}

#[tokio::test]
async fn a_file_that_was_cut_off_is_refused_and_its_backup_is_served() {
    let (world, path) = closed().await;
    let whole = std::fs::read(&path).unwrap();
    for length in [whole.len() - 1, whole.len() - 4_096, whole.len() / 2, 4_096, 1_000, 100, 50, 1]
    {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = refused(&path).await;
        assert!(matches!(error, OpenError::Damaged { .. }), "{length}: {error:?}");
    }
    std::fs::write(&path, &whole).unwrap();
    let repo = open(&world.url).await.unwrap();
    assert_eq!(repo.addresses_in_use().await.unwrap().len(), 100);
}

#[tokio::test]
async fn a_file_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eip.db");
    let text = "this is a text, and a long one, and not a database at all ".repeat(99);
    let noise: Vec<u8> =
        (0..25_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for bytes in [text.as_bytes(), &noise, &[0; 8_192], b"x"] {
        std::fs::write(&path, bytes).unwrap();
        let error = refused(&path).await;
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let error = open(&format!("sqlite:{}", path.display())).await.unwrap_err();
    assert!(matches!(error, OpenError::File { .. }), "{error:?}");
}

#[tokio::test]
async fn pages_that_hold_something_else_are_told_when_they_are_read() {
    let (world, path) = closed().await;
    let mut bytes = std::fs::read(&path).unwrap();
    for page in bytes.chunks_mut(4_096).skip(1) {
        page.fill(0xa5);
    }
    std::fs::write(&path, &bytes).unwrap();
    let error = open(&world.url).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
