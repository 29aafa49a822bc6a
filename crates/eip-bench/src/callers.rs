//! What the connections of a burst ask, when it is more than the same thing over and over.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use uuid::Uuid;

use crate::http::{Answer, field};
use crate::load::Caller;

/// A request with places for ids, which are written over in place.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Template {
    /// Every nil id in the request is a place for another.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let nil = Uuid::nil().to_string();
        let windows = bytes.windows(nil.len()).enumerate();
        let places = windows.filter(|(_, text)| *text == nil.as_bytes()).map(|(at, _)| at);
        let places = places.collect();
        Self { bytes, places }
    }

    pub(crate) fn with(&mut self, ids: &[Uuid]) -> &[u8] {
        for (at, id) in self.places.iter().zip(ids) {
            id.hyphenated().encode_lower(&mut self.bytes[*at..*at + 36]);
        }
        &self.bytes
    }
}

/// The id that an answer is about.
pub(crate) fn id(answer: Answer<'_>) -> Option<Uuid> {
    Uuid::try_parse(field(answer.body, "id")?).ok()
}

/// Allocates a number of elastic IPs together with the others, and remembers them.
#[derive(Debug, Clone)]
pub(crate) struct Allocate {
    request: Rc<[u8]>,
    left: Rc<Cell<usize>>,
    made: Rc<RefCell<Vec<Uuid>>>,
}

impl Allocate {
    pub(crate) fn some(request: &[u8], number: usize) -> Self {
        let made = Rc::new(RefCell::new(Vec::with_capacity(number)));
        Self { request: request.into(), left: Rc::new(Cell::new(number)), made }
    }

    /// What was allocated so far.
    pub(crate) fn made(&self) -> Rc<RefCell<Vec<Uuid>>> {
        self.made.clone()
    }
}

impl Caller for Allocate {
    fn ask(&mut self) -> Option<&[u8]> {
        let left = self.left.get().checked_sub(1)?;
        self.left.set(left);
        Some(&self.request)
    }

    fn hear(&mut self, answer: Answer<'_>) {
        if answer.is_success() {
            self.made.borrow_mut().extend(id(answer));
        }
    }
}

/// Allocates and releases in turn.
#[derive(Debug, Clone)]
pub(crate) struct Pairs {
    allocate: Vec<u8>,
    release: Template,
    held: Option<Uuid>,
}

impl Pairs {
    pub(crate) fn new(allocate: Vec<u8>, release: Vec<u8>) -> Self {
        Self { allocate, release: Template::of(release), held: None }
    }
}

impl Caller for Pairs {
    fn ask(&mut self) -> Option<&[u8]> {
        Some(match self.held {
            Some(id) => self.release.with(&[id]),
            None => &self.allocate,
        })
    }

    fn hear(&mut self, answer: Answer<'_>) {
        self.held = match self.held {
            None if answer.is_success() => id(answer),
            None | Some(_) => None,
        };
    }

    /// What was allocated is released, also when the time is over.
    fn may_stop(&self) -> bool {
        self.held.is_none()
    }
}

/// Asks the same of each of a list of ids once, together with the others.
#[derive(Debug, Clone)]
pub(crate) struct Each<const N: usize> {
    template: Template,
    all: Rc<Vec<[Uuid; N]>>,
    next: Rc<Cell<usize>>,
}

impl<const N: usize> Each<N> {
    pub(crate) fn of(request: Vec<u8>, all: Rc<Vec<[Uuid; N]>>) -> Self {
        Self { template: Template::of(request), all, next: Rc::new(Cell::new(0)) }
    }
}

impl<const N: usize> Caller for Each<N> {
    fn ask(&mut self) -> Option<&[u8]> {
        let at = self.next.get();
        let ids = self.all.get(at)?;
        self.next.set(at + 1);
        Some(self.template.with(ids))
    }

    fn hear(&mut self, _: Answer<'_>) {}
}

/// Asks the same of ids that are drawn at random, as often as there is time.
#[derive(Debug, Clone)]
pub(crate) struct Any {
    template: Template,
    all: Rc<Vec<Uuid>>,
    dice: Rc<Cell<u64>>,
}

impl Any {
    pub(crate) fn of(request: Vec<u8>, all: Rc<Vec<Uuid>>) -> Self {
        Self { template: Template::of(request), all, dice: Rc::new(Cell::new(1)) }
    }
}

impl Caller for Any {
    fn ask(&mut self) -> Option<&[u8]> {
        let drawn = draw(&self.dice);
        let at = usize::try_from(drawn % self.all.len() as u64).ok()?;
        Some(self.template.with(&[*self.all.get(at)?]))
    }

    fn hear(&mut self, _: Answer<'_>) {}
}

/// `SplitMix64`: the same numbers in every run, for next to nothing.
fn draw(dice: &Cell<u64>) -> u64 {
    let state = dice.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    dice.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_into_their_places_in_order() {
        let nil = Uuid::nil();
        let text =
            format!("POST /elastic-ips/{nil}/associate\r\n\r\n{{\"instance_id\":\"{nil}\"}}");
        let mut template = Template::of(text.into_bytes());
        let (a, b) = (Uuid::from_u128(0xa), Uuid::from_u128(0xb));
        for _ in 0..2 {
            let request = String::from_utf8(template.with(&[a, b]).to_vec()).unwrap();
            let expected =
                format!("POST /elastic-ips/{a}/associate\r\n\r\n{{\"instance_id\":\"{b}\"}}");
            assert_eq!(request, expected);
        }
    }

    #[test]
    fn a_pair_is_finished_before_it_stops() {
        let nil = Uuid::nil();
        let mut pairs = Pairs::new(b"allocate".to_vec(), format!("release {nil}").into_bytes());
        let held = Uuid::from_u128(7);
        let body = format!("{{\"id\":\"{held}\"}}");
        assert_eq!(pairs.ask(), Some(&b"allocate"[..]));
        pairs.hear(Answer { status: 201, body: body.as_bytes() });
        assert!(!pairs.may_stop());
        assert_eq!(pairs.ask(), Some(format!("release {held}").as_bytes()));
        pairs.hear(Answer { status: 204, body: b"" });
        assert!(pairs.may_stop());
        assert_eq!(pairs.ask(), Some(&b"allocate"[..]));
        pairs.hear(Answer { status: 409, body: b"{}" });
        assert!(pairs.may_stop());
    }

    #[test]
    fn a_number_of_allocations_is_shared() {
        let first = Allocate::some(b"x", 2);
        let mut callers = [first.clone(), first.clone()];
        assert!(callers[0].ask().is_some() && callers[1].ask().is_some());
        assert!(callers[0].ask().is_none() && callers[1].ask().is_none());
    }
}
