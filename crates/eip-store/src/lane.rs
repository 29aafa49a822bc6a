//! Group commit: commands of one kind that wait while others are on their way to the disk are
//! settled together.
//!
//! There is no timer. A command that comes while nothing runs is a batch of its own; what comes
//! meanwhile is the next batch. So the batch grows with the load, and the cost of a commit is shared
//! by all that it settles. A second batch is under way when more wait than one batch can hold.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::home::Home;
use crate::transaction::{Batch, Database, Outcome, Setback};

/// How many commands one transaction settles at most.
pub(crate) const BATCH: usize = 256;

/// How many batches are under way at most.
const DEPTH: usize = 2;

/// How many times a command that stands behind another one goes into a next batch. The first of a
/// batch is always settled, so more than a batch are needed by none that gets on at all.
const TURNS: usize = 4 * BATCH;

/// The queue of the commands of one kind.
#[derive(Debug)]
pub(crate) struct Lane<B: Batch> {
    home: Home,
    queue: Arc<Mutex<Queue<B>>>,
}

#[derive(Debug)]
struct Queue<B: Batch> {
    waiting: VecDeque<Waiter<B>>,
    running: usize,
}

#[derive(Debug)]
struct Waiter<B: Batch> {
    command: B,
    turns: usize,
    reply: oneshot::Sender<Result<B::Answer, StoreError>>,
}

impl<B: Batch> Clone for Lane<B> {
    fn clone(&self) -> Self {
        Self { home: self.home.clone(), queue: Arc::clone(&self.queue) }
    }
}

impl<B: Batch> Lane<B> {
    /// A lane on which batches are settled by this thread.
    pub(crate) fn on(home: &Home) -> Self {
        let queue = Queue { waiting: VecDeque::new(), running: 0 };
        Self { home: home.clone(), queue: Arc::new(Mutex::new(queue)) }
    }

    /// Has the command settled, with others if there are any. It is settled even when the caller
    /// does not wait for the answer.
    pub(crate) async fn settle<D: Database>(
        &self,
        database: &Arc<D>,
        command: B,
    ) -> Result<B::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let start = {
            let mut queue = self.lock();
            queue.waiting.push_back(Waiter { command, turns: 0, reply });
            let crowded = queue.waiting.len() > BATCH;
            let start = queue.running == 0 || (crowded && queue.running < DEPTH);
            if start {
                queue.running += 1;
            }
            start
        };
        if start {
            self.home.spawn(self.clone().run(Arc::clone(database)));
        }
        answer.await.unwrap_or_else(|_| {
            let source = Box::new(std::io::Error::other("it was given up on the way"));
            Err(StoreError::Unavailable { doing: B::DOING, outcome_unknown: true, source })
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue<B>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles batches until nothing waits.
    async fn run<D: Database>(self, database: Arc<D>) {
        loop {
            let batch: Vec<Waiter<B>> = {
                let mut queue = self.lock();
                let count = queue.waiting.len().min(BATCH);
                if count == 0 {
                    queue.running -= 1;
                    return;
                }
                queue.waiting.drain(..count).collect()
            };
            let (commands, replies): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|one| (one.command, (one.turns, one.reply))).unzip();
            let commands = Arc::new(commands);
            // A task of its own: should it panic, those who wait are told and the lane goes on.
            let settling = tokio::spawn(outcomes(Arc::clone(&database), Arc::clone(&commands)));
            let Ok(outcomes) = settling.await else { continue };
            let mut behind = Vec::new();
            for ((command, (turns, reply)), outcome) in commands.iter().zip(replies).zip(outcomes) {
                match outcome {
                    Ok(Outcome::Done(answer)) => drop(reply.send(Ok(answer))),
                    Ok(Outcome::Refused(refusal)) => drop(reply.send(Err(refusal.into()))),
                    Ok(Outcome::Failed(error)) => drop(reply.send(Err(error))),
                    Ok(Outcome::Again) if turns < TURNS => {
                        behind.push(Waiter { command: command.clone(), turns: turns + 1, reply });
                    }
                    Ok(Outcome::Again) => drop(reply.send(Err(lost::<B>()))),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            if !behind.is_empty() {
                let mut queue = self.lock();
                behind.into_iter().rev().for_each(|one| queue.waiting.push_front(one));
            }
        }
    }
}

fn lost<B: Batch>() -> StoreError {
    let source = Box::new(std::io::Error::other("others were faster every time"));
    StoreError::Unavailable { doing: B::DOING, outcome_unknown: false, source }
}

type Outcomes<B> = Vec<Result<Outcome<<B as Batch>::Answer>, StoreError>>;

/// Settles a batch, and when one of it may be what stands in the way, each command apart.
async fn outcomes<D: Database, B: Batch>(database: Arc<D>, commands: Arc<Vec<B>>) -> Outcomes<B> {
    let error = match database.settle(Arc::clone(&commands)).await {
        Ok(outcomes) => return outcomes.into_iter().map(Ok).collect(),
        Err(Setback::Apart(_)) if commands.len() > 1 => {
            tracing::debug!(doing = B::DOING, count = commands.len(), "Trying each apart");
            return apart(&*database, &commands).await;
        }
        Err(Setback::All(error) | Setback::Apart(error)) => error,
    };
    let error = Arc::new(error);
    commands.iter().map(|_| Err(StoreError::of_all(&error))).collect()
}

async fn apart<D: Database, B: Batch>(database: &D, commands: &[B]) -> Outcomes<B> {
    let mut outcomes = Vec::with_capacity(commands.len());
    for command in commands {
        if outcomes.len() == commands.len() {
            break;
        }
        match database.settle(Arc::new(vec![command.clone()])).await {
            Ok(one) => outcomes.push(one.into_iter().next().ok_or_else(lost::<B>)),
            Err(Setback::Apart(error)) => outcomes.push(Err(error)),
            // It would be the same for those that are left, and take as long for each.
            Err(Setback::All(error)) => {
                let error = Arc::new(error);
                outcomes.resize_with(commands.len(), || Err(StoreError::of_all(&error)));
            }
        }
    }
    outcomes
}
