//! Group commit: commands of one kind that wait while others are on their way to the disk are
//! settled together.
//!
//! There is no timer. A command that comes while nothing runs is a batch of its own; what comes
//! meanwhile is the next batch. So the batch grows with the load, and the cost of a commit is shared
//! by all that it settles. A second batch is under way when more wait than one batch can hold.

use std::any::Any;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::home::Home;
use crate::transaction::{Batch, Database, Outcome, Setback};

/// How many batches are under way at most.
const DEPTH: usize = 2;

/// How many times a command that stands behind another one goes into a next batch, in batches. The first
/// of a batch is always settled, so more than a batch are needed by none that gets on at all.
const TURNS: usize = 4;

/// How long the commands of one batch are tried apart. One that waits for a lock takes seconds.
const APART: Duration = Duration::from_secs(10);

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
    ticket: Ticket<B::Answer>,
}

/// Who waits for the outcome of a command.
#[derive(Debug)]
struct Ticket<A> {
    turns: usize,
    /// Has the database stay open until the command is settled, and no longer: who has the answer
    /// may close the record and open it again at once.
    keeps: Arc<dyn Any + Send + Sync>,
    reply: oneshot::Sender<Result<A, StoreError>>,
}

/// What became of the command at a place of the batch, before it is said.
#[derive(Debug)]
struct Settled<A> {
    place: usize,
    ticket: Ticket<A>,
    outcome: Result<Outcome<A>, StoreError>,
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
        let mut settled = self.settle_all(database, vec![command]).await;
        settled.pop().unwrap_or_else(|| Err(given_up::<B>()))
    }

    /// Has all of them settled, and those that one batch can hold together. Returns what became of each,
    /// in their order.
    pub(crate) async fn settle_all<D: Database>(
        &self,
        database: &Arc<D>,
        commands: Vec<B>,
    ) -> Vec<Result<B::Answer, StoreError>> {
        let waiter = |command| {
            let (reply, answer) = oneshot::channel();
            let ticket = Ticket { turns: 0, keeps: Arc::clone(database) as _, reply };
            (Waiter { command, ticket }, answer)
        };
        let (waiters, answers): (Vec<_>, Vec<_>) = commands.into_iter().map(waiter).unzip();
        for _ in 0..self.queue(waiters) {
            self.home.spawn(self.clone().run(Arc::downgrade(database)));
        }
        let mut settled = Vec::with_capacity(answers.len());
        for answer in answers {
            settled.push(answer.await.unwrap_or_else(|_| Err(given_up::<B>())));
        }
        settled
    }

    /// Has them wait, and returns how many batches are to be begun.
    fn queue(&self, waiters: Vec<Waiter<B>>) -> usize {
        let mut queue = self.lock();
        queue.waiting.extend(waiters);
        let before = queue.running;
        while queue.running == 0 || (queue.waiting.len() > B::MOST && queue.running < DEPTH) {
            queue.running += 1;
        }
        queue.running - before
    }

    fn lock(&self) -> MutexGuard<'_, Queue<B>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles batches until nothing waits.
    async fn run<D: Database>(self, database: Weak<D>) {
        while let Some((commands, tickets)) = self.next() {
            // Those who wait keep it open.
            let Some(database) = database.upgrade() else { continue };
            // A task of its own: should it panic, those who wait are told and the lane goes on.
            let settling = tokio::spawn(settle_all(database, Arc::clone(&commands), tickets));
            let Ok(settled) = settling.await else { continue };
            let (behind, done): (Vec<_>, Vec<_>) =
                settled.into_iter().partition(Settled::goes_behind::<B>);
            if !behind.is_empty() {
                let mut queue = self.lock();
                for Settled { place, mut ticket, .. } in behind.into_iter().rev() {
                    ticket.turns += 1;
                    queue.waiting.push_front(Waiter { command: commands[place].clone(), ticket });
                }
            }
            // All of them let go of the database before the first is answered.
            let answers: Vec<_> = done.into_iter().map(Settled::let_go::<B>).collect();
            for (reply, answer) in answers {
                drop(reply.send(answer));
            }
        }
    }

    /// Takes the next batch. Without any, whoever asked runs no more.
    fn next(&self) -> Option<Taken<B>> {
        let mut queue = self.lock();
        let count = queue.waiting.len().min(B::MOST);
        if count == 0 {
            queue.running -= 1;
            return None;
        }
        let batch = queue.waiting.drain(..count);
        let (commands, tickets) = batch.map(|one| (one.command, one.ticket)).unzip();
        Some((Arc::new(commands), tickets))
    }
}

/// A batch: commands, and who waits for each.
type Taken<B> = (Arc<Vec<B>>, Vec<Ticket<<B as Batch>::Answer>>);

type Reply<A> = (oneshot::Sender<Result<A, StoreError>>, Result<A, StoreError>);

impl<A> Settled<A> {
    /// Whether the next batch has to settle it.
    fn goes_behind<B: Batch>(&self) -> bool {
        matches!(self.outcome, Ok(Outcome::Again)) && self.ticket.turns < TURNS * B::MOST
    }

    /// Lets go of the database, and returns what is to be said to whom.
    fn let_go<B: Batch>(self) -> Reply<A> {
        let answer = match self.outcome {
            Ok(Outcome::Done(answer)) => Ok(answer),
            Ok(Outcome::Refused(refusal)) => Err(refusal.into()),
            Ok(Outcome::Failed(error)) | Err(error) => Err(error),
            Ok(Outcome::Again) => Err(lost::<B>()),
        };
        drop(self.ticket.keeps);
        (self.ticket.reply, answer)
    }
}

fn given_up<B: Batch>() -> StoreError {
    let source = Box::new(std::io::Error::other("it was given up on the way"));
    StoreError::Unavailable { doing: B::DOING, outcome_unknown: true, source }
}

fn lost<B: Batch>() -> StoreError {
    unavailable::<B>("others were faster every time")
}

fn unavailable<B: Batch>(why: &'static str) -> StoreError {
    let source = Box::new(std::io::Error::other(why));
    StoreError::Unavailable { doing: B::DOING, outcome_unknown: false, source }
}

/// Settles a batch, and when one of it may be what stands in the way, each command apart. Returns
/// those that were not answered on the way.
async fn settle_all<D: Database, B: Batch>(
    database: Arc<D>,
    commands: Arc<Vec<B>>,
    tickets: Vec<Ticket<B::Answer>>,
) -> Vec<Settled<B::Answer>> {
    let settled = database.settle(Arc::clone(&commands)).await;
    let numbered = tickets.into_iter().enumerate();
    let error = match settled {
        Ok(outcomes) => {
            let together = numbered.zip(outcomes);
            return together
                .map(|((place, ticket), outcome)| Settled { place, ticket, outcome: Ok(outcome) })
                .collect();
        }
        Err(Setback::Apart(_)) if commands.len() > 1 => {
            tracing::debug!(doing = B::DOING, count = commands.len(), "Trying each apart");
            return apart(&*database, &commands, numbered.collect()).await;
        }
        Err(Setback::All(error) | Setback::Apart(error)) => error,
    };
    all_fail(numbered, error).collect()
}

fn all_fail<A>(
    left: impl Iterator<Item = (usize, Ticket<A>)>,
    error: StoreError,
) -> impl Iterator<Item = Settled<A>> {
    let error = Arc::new(error);
    left.map(move |(place, ticket)| Settled {
        place,
        ticket,
        outcome: Err(StoreError::of_all(&error)),
    })
}

/// Settles each command apart, and answers it at once: the next one may wait for a lock. Those that
/// most likely wait for the same come last, and when all of it has taken too long, those that are
/// left are not tried.
async fn apart<D: Database, B: Batch>(
    database: &D,
    commands: &[B],
    mut left: VecDeque<(usize, Ticket<B::Answer>)>,
) -> Vec<Settled<B::Answer>> {
    let begun = Instant::now();
    let (mut unanswered, mut stuck, mut late) = (Vec::new(), BTreeSet::new(), VecDeque::new());
    loop {
        let (place, ticket) = match left.pop_front() {
            Some(one) if commands[one.0].about().is_some_and(|about| stuck.contains(&about)) => {
                late.push_back(one);
                continue;
            }
            Some(one) => one,
            None => match late.pop_front() {
                Some(one) => one,
                None => return unanswered,
            },
        };
        let tried = match begun.elapsed() < APART {
            true => database.settle(Arc::new(vec![commands[place].clone()])).await,
            false => Err(Setback::All(unavailable::<B>("others waited too long for a lock"))),
        };
        let outcome = match tried {
            Ok(one) => one.into_iter().next().ok_or_else(lost::<B>),
            Err(Setback::Apart(error)) => {
                stuck.extend(commands[place].about());
                Err(error)
            }
            // It would be the same for those that are left, and take as long for each.
            Err(Setback::All(error)) => {
                let rest = std::iter::once((place, ticket)).chain(left).chain(late);
                unanswered.extend(all_fail(rest, error));
                return unanswered;
            }
        };
        let settled = Settled { place, ticket, outcome };
        // The last is answered when the database is not needed any more.
        if settled.goes_behind::<B>() || (left.is_empty() && late.is_empty()) {
            unanswered.push(settled);
        } else {
            let (reply, answer) = settled.let_go::<B>();
            drop(reply.send(answer));
        }
    }
}
