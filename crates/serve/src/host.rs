//! The thread that computes: it alone owns the engine; requests come in and events go out by
//! channels, and no lock is held over a step.
//!
//! A panic in a step is answered by a new engine, in which each request is first run alone up to
//! where it was: the one that panics again has failed, the others go on, since an answer has the
//! same bits in any company (ARCHITECTURE.md).

use std::collections::{BTreeMap, HashMap};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use herd_codec::Tokenizer;
use herd_engine::shelf::ShelfSettings;
use herd_engine::{
    Engine, Event, Limits, Load, Request, RequestError, RequestId, Speculation, What,
};
use herd_model::llama::Llama;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The way to the thread that computes. When the last is dropped and nothing is left to do, the
/// thread ends.
#[derive(Clone)]
pub struct Host {
    commands: Sender<Command>,
    figures: Arc<Figures>,
    /// Answers in hand at most, those that wait included.
    most: usize,
}

/// What has been done and what is in hand; read at any time, each number for itself.
#[derive(Debug, Default)]
pub struct Figures {
    /// Answers in hand, from the moment they are let in.
    pub live: AtomicUsize,
    /// Of these, answers that run.
    pub running: AtomicUsize,
    /// Pages of the cache that answers hold.
    pub pages_held: AtomicUsize,
    /// Pages of the cache.
    pub pages: AtomicUsize,
    /// Steps.
    pub steps: AtomicU64,
    /// Nanoseconds of steps.
    pub busy_ns: AtomicU64,
    /// Tokens of prompts computed.
    pub prompt_tokens: AtomicU64,
    /// Tokens of prompts found in the cache.
    pub cached_tokens: AtomicU64,
    /// Tokens of answers.
    pub answer_tokens: AtomicU64,
    /// Tokens that were proposed.
    pub proposed_tokens: AtomicU64,
    /// Of these, tokens that were chosen.
    pub accepted_tokens: AtomicU64,
    /// Times that an answer gave up its pages.
    pub preempted: AtomicU64,
    /// Answers that ended.
    pub ended: AtomicU64,
    /// Answers that were let in.
    pub begun: AtomicU64,
    /// Steps that panicked.
    pub panics: AtomicU64,
    /// Nanoseconds that ended answers took, from the queue to the end.
    answered_ns: AtomicU64,
}

/// What the thread says of an exchange, answer by answer.
#[derive(Debug)]
pub enum Told {
    /// The engine took the requests.
    Taken,
    /// It did not: the first that is wrong, by its place.
    Refused(usize, RequestError),
    /// Something happened to an answer.
    Event(usize, What),
    /// A fault of this program ended an answer.
    Fault(usize),
}

/// There is no room: the caller may come back after so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Seconds, from what answers took so far.
    pub retry_after: u64,
    /// Answers in hand.
    pub live: usize,
}

/// The answers to one exchange as they come. Dropping it cancels those that have not ended.
pub struct Reception {
    ticket: u64,
    told: UnboundedReceiver<Told>,
    commands: Sender<Command>,
    open: usize,
}

/// What helps the engine beside its model; nothing by default.
#[derive(Clone, Default)]
pub struct Aids {
    /// Who proposes tokens.
    pub speculation: Option<Speculation>,
    /// Where pages of the cache outlive the process.
    pub shelf: Option<ShelfSettings>,
}

/// How long [`Host::finish`] waits for pages to be written.
const FINISH: Duration = Duration::from_secs(10);

enum Command {
    Submit { ticket: u64, requests: Vec<(Request, usize)>, tell: UnboundedSender<Told> },
    Cancel { ticket: u64 },
    Finish { done: Sender<()> },
}

impl Host {
    /// Starts the thread, with an engine of these limits. `waiting` answers may wait beside the
    /// `limits.parallel` that run.
    pub fn start(
        model: Arc<Llama>,
        tokenizer: Arc<Tokenizer>,
        limits: Limits,
        waiting: usize,
    ) -> Host {
        Host::start_with(model, tokenizer, limits, waiting, Aids::default())
    }

    /// The same with help. A folder for pages that cannot be used is told of and done without.
    pub fn start_with(
        model: Arc<Llama>,
        tokenizer: Arc<Tokenizer>,
        limits: Limits,
        waiting: usize,
        aids: Aids,
    ) -> Host {
        let (commands, orders) = mpsc::channel();
        let figures = Arc::new(Figures::default());
        let mut desk = Desk {
            model,
            tokenizer,
            limits,
            aids,
            engine: None,
            orders,
            figures: Arc::clone(&figures),
            lives: BTreeMap::new(),
            tickets: HashMap::new(),
            events: Vec::new(),
        };
        desk.renew();
        let spawned = thread::Builder::new().name("herd-compute".into()).spawn(move || desk.work());
        spawned.expect("the system gives a program one more thread");
        Host { commands, figures, most: limits.parallel + waiting }
    }

    /// Waits until the pages that are worth it are on disk, some seconds at most. What still runs is dropped.
    pub fn finish(&self) {
        let (done, finished) = mpsc::channel();
        let _ = self.commands.send(Command::Finish { done }); // the thread may be gone
        let _ = finished.recv_timeout(FINISH);
    }

    /// What has been done and what is in hand.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Hands in requests, each for a number of answers, as one exchange: all are taken or none.
    /// Answers are counted through, request by request.
    pub fn submit(&self, requests: Vec<(Request, usize)>) -> Result<Reception, Full> {
        static TICKETS: AtomicU64 = AtomicU64::new(0);
        let open: usize = requests.iter().map(|(_, n)| n).sum();
        let live = &self.figures.live;
        // An exchange of more answers than there is room for is let in when nothing else is.
        let room = |now: usize| (now == 0 || now + open <= self.most).then(|| now + open);
        if let Err(live) = live.fetch_update(Relaxed, Relaxed, room) {
            return Err(Full { retry_after: self.figures.seconds_for_one(), live });
        }
        self.figures.begun.fetch_add(open as u64, Relaxed);
        let (tell, told) = unbounded_channel();
        let ticket = TICKETS.fetch_add(1, Relaxed);
        // If the thread is gone, `told` ends at once, and that is told as a fault.
        let _ = self.commands.send(Command::Submit { ticket, requests, tell });
        Ok(Reception { ticket, told, commands: self.commands.clone(), open })
    }
}

impl Figures {
    /// Seconds until an answer in hand may end, between 1 and 60.
    fn seconds_for_one(&self) -> u64 {
        let ended = self.ended.load(Relaxed).max(1);
        (self.answered_ns.load(Relaxed) / ended / 1_000_000_000).clamp(1, 60)
    }

    /// Adds what another thread did and has in hand.
    pub fn add(&self, other: &Figures) {
        let Figures { live, running, pages_held, pages, steps, busy_ns, .. } = other;
        let Figures { prompt_tokens, cached_tokens, answer_tokens, .. } = other;
        let Figures { ended, begun, panics, answered_ns, .. } = other;
        let Figures { proposed_tokens, accepted_tokens, preempted, .. } = other;
        for (sum, more) in [
            (&self.live, live),
            (&self.running, running),
            (&self.pages_held, pages_held),
            (&self.pages, pages),
        ] {
            sum.fetch_add(more.load(Relaxed), Relaxed);
        }
        for (sum, more) in [
            (&self.steps, steps),
            (&self.busy_ns, busy_ns),
            (&self.prompt_tokens, prompt_tokens),
            (&self.cached_tokens, cached_tokens),
            (&self.answer_tokens, answer_tokens),
            (&self.proposed_tokens, proposed_tokens),
            (&self.accepted_tokens, accepted_tokens),
            (&self.preempted, preempted),
            (&self.ended, ended),
            (&self.begun, begun),
            (&self.panics, panics),
            (&self.answered_ns, answered_ns),
        ] {
            sum.fetch_add(more.load(Relaxed), Relaxed);
        }
    }

    fn note(&self, load: Load) {
        self.running.store(load.running, Relaxed);
        self.pages_held.store(load.pages_held, Relaxed);
        self.pages.store(load.pages, Relaxed);
    }
}

impl Reception {
    /// What is told next; nothing once all answers have ended.
    pub async fn next(&mut self) -> Option<Told> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// The same for a stream.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Told>> {
        if self.open == 0 {
            return Poll::Ready(None);
        }
        let told = ready!(self.told.poll_recv(context));
        let told = told.unwrap_or(Told::Fault(0)); // the thread is gone
        self.see(&told);
        Poll::Ready(Some(told))
    }

    fn see(&mut self, told: &Told) {
        match told {
            Told::Refused(..) => self.open = 0,
            Told::Event(_, What::End { .. }) | Told::Fault(_) => self.open -= 1,
            Told::Taken | Told::Event(..) => {}
        }
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        if self.open > 0 {
            let _ = self.commands.send(Command::Cancel { ticket: self.ticket });
        }
    }
}

/// What the thread has before it.
struct Desk {
    model: Arc<Llama>,
    tokenizer: Arc<Tokenizer>,
    limits: Limits,
    aids: Aids,
    /// Absent only while another is made, and at the end.
    engine: Option<Engine>,
    orders: Receiver<Command>,
    figures: Arc<Figures>,
    lives: BTreeMap<RequestId, Live>,
    tickets: HashMap<u64, Vec<RequestId>>,
    events: Vec<Event>,
}

/// An answer that has not ended.
#[derive(Clone)]
struct Live {
    ticket: u64,
    /// Its place in the exchange.
    answer: usize,
    tell: UnboundedSender<Told>,
    /// What was asked, with the stream of this answer, to ask it again.
    request: Request,
    /// Events told; after a panic so many are not told again.
    told: usize,
    /// Events still to be passed over.
    skip: usize,
    since: Instant,
}

impl Desk {
    fn work(mut self) {
        loop {
            // Who has nothing to do keeps pages until somebody comes.
            if self.engine().is_idle() && self.engine().shelve(1, true) == 0 {
                let Ok(command) = self.orders.recv() else { return };
                self.obey(command);
            }
            while self.engine.is_some() {
                let Ok(command) = self.orders.try_recv() else { break };
                self.obey(command);
            }
            if self.engine.is_none() {
                return; // callers that are left hear of a fault
            }
            if !self.engine().is_idle() {
                self.step();
            }
            let load = self.engine().load();
            self.figures.note(load);
        }
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("an engine is put back at once")
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Finish { done } => {
                while self.engine().shelve(1, true) > 0 {}
                self.engine = None; // waits for the disk
                let _ = done.send(()); // nobody may wait any more
            }
            Command::Submit { ticket, requests, tell } => self.submit(ticket, requests, tell),
            Command::Cancel { ticket } => {
                for id in self.tickets.remove(&ticket).unwrap_or_default() {
                    let mut events = std::mem::take(&mut self.events);
                    self.engine().cancel(id, &mut events);
                    self.events = events;
                }
                self.tell();
            }
        }
    }

    fn submit(
        &mut self,
        ticket: u64,
        requests: Vec<(Request, usize)>,
        tell: UnboundedSender<Told>,
    ) {
        let answers: usize = requests.iter().map(|(_, n)| n).sum();
        let engine = self.engine();
        let wrong = requests.iter().map(|(request, _)| engine.check(request).err());
        if let Some((place, error)) =
            wrong.enumerate().find_map(|(place, error)| Some((place, error?)))
        {
            self.figures.live.fetch_sub(answers, Relaxed);
            let _ = tell.send(Told::Refused(place, error)); // the caller may have left
            return;
        }
        let _ = tell.send(Told::Taken);
        let mut answer = 0;
        for (request, n) in requests {
            for i in 0..n as u64 {
                let mut request = request.clone();
                request.sampling.stream = request.sampling.stream.wrapping_add(i);
                let (tell, since) = (tell.clone(), Instant::now());
                self.take(Live { ticket, answer, tell, request, told: 0, skip: 0, since });
                answer += 1;
            }
        }
    }

    /// Gives a checked request to the engine.
    fn take(&mut self, live: Live) -> RequestId {
        let id = self.engine().submit(live.request.clone()).expect("it was checked");
        self.tickets.entry(live.ticket).or_default().push(id);
        self.lives.insert(id, live);
        id
    }

    fn step(&mut self) {
        let started = Instant::now();
        if self.try_step().is_err() {
            self.recover();
            return;
        }
        let figures = &self.figures;
        figures.steps.fetch_add(1, Relaxed);
        figures.busy_ns.fetch_add(nanoseconds(started.elapsed()), Relaxed);
        self.tell();
    }

    /// One step; an error if it panicked. The engine is not to be used after that.
    fn try_step(&mut self) -> thread::Result<()> {
        let engine = self.engine.as_mut().expect("an engine is put back at once");
        let (events, figures) = (&mut self.events, &self.figures);
        let lives = &self.lives;
        panic::catch_unwind(AssertUnwindSafe(|| {
            let step = engine.step(events);
            figures.prompt_tokens.fetch_add(step.prompt as u64, Relaxed);
            figures.answer_tokens.fetch_add(step.chosen as u64, Relaxed);
            figures.proposed_tokens.fetch_add(step.proposed as u64, Relaxed);
            figures.accepted_tokens.fetch_add(step.accepted as u64, Relaxed);
            figures.preempted.fetch_add(step.preempted as u64, Relaxed);
            fault(events, lives);
        }))
    }

    /// Tells each answer what happened to it.
    fn tell(&mut self) {
        for Event { id, what } in self.events.drain(..) {
            let Some(live) = self.lives.get_mut(&id) else { continue };
            let ended = match &what {
                What::End { usage, .. } => {
                    self.figures.cached_tokens.fetch_add(usage.cached as u64, Relaxed);
                    true
                }
                What::Prompt(_) | What::Embedding(_) | What::Token(_) => false,
            };
            if live.skip > 0 && !ended {
                live.skip -= 1;
                continue;
            }
            live.told += 1;
            if !ended {
                let _ = live.tell.send(Told::Event(live.answer, what)); // the caller may have left
            } else if let Some(live) = self.lives.remove(&id) {
                // Who hears the end finds the room free.
                close(&self.figures, &mut self.tickets, id, &live);
                let _ = live.tell.send(Told::Event(live.answer, what));
            }
        }
    }

    /// After a panic: another engine, and each answer alone up to where it was. What panics again
    /// has failed; the others go on together.
    fn recover(&mut self) {
        self.figures.panics.fetch_add(1, Relaxed);
        let suspects = std::mem::take(&mut self.lives);
        let mut innocent = Vec::new();
        self.renew();
        for (id, mut live) in suspects {
            live.skip = live.told;
            let alone = self.take(live.clone());
            while self.lives.get(&alone).is_some_and(|l| l.told <= live.told) {
                if self.try_step().is_err() {
                    let failed = self.lives.remove(&alone).expect("it is there");
                    close(&self.figures, &mut self.tickets, id, &failed);
                    let _ = failed.tell.send(Told::Fault(failed.answer));
                    self.renew();
                    break;
                }
                self.tell();
            }
            // One that is past its place steps aside; its pages stay to be found.
            if let Some(live) = self.lives.remove(&alone) {
                let engine = self.engine.as_mut().expect("an engine is put back at once");
                engine.cancel(alone, &mut self.events);
                self.events.clear();
                innocent.push(live);
            }
        }
        self.tickets.clear();
        for mut live in innocent {
            live.skip = live.told;
            self.take(live);
        }
    }

    fn renew(&mut self) {
        self.events.clear();
        self.engine = None; // its memory first
        let (model, tokenizer) = (Arc::clone(&self.model), Arc::clone(&self.tokenizer));
        let mut engine = Engine::new(model, Some(tokenizer), self.limits);
        if let Some(speculation) = &self.aids.speculation {
            engine.speculate(speculation);
        }
        if let Some(shelf) = self.aids.shelf.clone() {
            let (log, folder) = (shelf.log, shelf.folder.clone());
            if let Err(error) = engine.keep_pages(shelf) {
                log(&format!("prefix cache: {} cannot be used: {error}", folder.display()));
                self.aids.shelf = None;
            }
        }
        self.engine = Some(engine);
    }
}

/// Counts an answer that is over.
fn close(
    figures: &Figures,
    tickets: &mut HashMap<u64, Vec<RequestId>>,
    id: RequestId,
    live: &Live,
) {
    figures.live.fetch_sub(1, Relaxed);
    figures.ended.fetch_add(1, Relaxed);
    figures.answered_ns.fetch_add(nanoseconds(live.since.elapsed()), Relaxed);
    if let Some(ids) = tickets.get_mut(&live.ticket) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            tickets.remove(&live.ticket);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Tests: a request of this seed panics at its third token.
#[cfg(test)]
const FAULTY: u64 = 666;

#[cfg(test)]
fn fault(events: &[Event], lives: &BTreeMap<RequestId, Live>) {
    for event in events {
        let Some(live) = lives.get(&event.id) else { continue };
        assert!(live.request.sampling.seed != FAULTY || live.told < 2, "a fault made by a test");
    }
}

#[cfg(not(test))]
fn fault(_: &[Event], _: &BTreeMap<RequestId, Live>) {}

#[cfg(test)]
mod tests {
    use super::*;
    use herd_engine::sample::Sampling;
    use herd_model::Checkpoint;
    use herd_tensor::{Class, Device};
    use std::path::Path;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata");

    fn host(parallel: usize, waiting: usize) -> Host {
        let (model, tokenizer, limits) = parts(parallel);
        Host::start(model, tokenizer, limits, waiting)
    }

    fn parts(parallel: usize) -> (Arc<Llama>, Arc<Tokenizer>, Limits) {
        let checkpoint = Checkpoint::open(Path::new(ROOT).join("models/llama2_gqa")).unwrap();
        let device = Device::cpu(Class::best(), 1);
        let model = Arc::new(Llama::load(&checkpoint, &device, 128).unwrap());
        let json = std::fs::read(Path::new(ROOT).join("tokenizer/small.json")).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_tokenizer_json(&json).unwrap());
        (model, tokenizer, Limits { parallel, page_len: 16, ..Limits::single(64) })
    }

    fn request(seed: u64) -> Request {
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::GREEDY };
        Request { max_tokens: Some(20), ..Request::new(vec![5, 6, 7], sampling) }
    }

    /// The tokens of an exchange of one answer; nothing if it failed.
    fn hear(mut reception: Reception) -> Option<Vec<u32>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut ids = Vec::new();
        while let Some(told) = runtime.block_on(reception.next()) {
            match told {
                Told::Event(0, What::Token(token)) => ids.push(token.id),
                Told::Fault(0) => return None,
                _ => {}
            }
        }
        Some(ids)
    }

    #[test]
    fn a_panic_fails_the_request_that_panics_and_no_other() {
        let host = host(4, 8);
        let alone: Vec<_> =
            (0..5).map(|seed| hear(host.submit(vec![(request(seed), 1)]).unwrap())).collect();
        assert!(alone.iter().all(|ids| ids.as_ref().unwrap().len() == 20));
        let seeds = [0, 1, FAULTY, 2, 3, 4];
        let all = seeds.map(|seed| host.submit(vec![(request(seed), 1)]).unwrap());
        let mut heard: Vec<_> = all.into_iter().map(hear).collect();
        assert_eq!(heard.remove(2), None);
        assert_eq!(heard, alone);
        assert!(host.figures().panics.load(Relaxed) >= 1);
        assert_eq!(host.figures().live.load(Relaxed), 0);
    }

    #[test]
    fn who_is_left_at_the_end_hears_of_it_and_nobody_waits() {
        let host = host(1, 8);
        let left = host.submit(vec![(request(1), 8)]).unwrap();
        host.finish();
        host.finish();
        hear(left);
        assert!(hear(host.submit(vec![(request(1), 1)]).unwrap()).is_none());
    }

    #[test]
    fn what_finds_no_room_is_sent_away_and_a_caller_who_leaves_makes_room() {
        let host = host(1, 1);
        let first = host.submit(vec![(request(1), 2)]).unwrap();
        let Err(full) = host.submit(vec![(request(2), 1)]) else { return }; // it was quick
        assert!(full.retry_after >= 1 && full.live <= 2);
        drop(first);
        while host.figures().live.load(Relaxed) > 0 {
            thread::yield_now();
        }
        // More answers than there is room for come in when nothing else is there.
        let many = host.submit(vec![(request(3), 5)]).unwrap();
        assert!(hear(many).is_some());
    }

    #[test]
    fn a_request_that_the_engine_refuses_takes_no_room() {
        let host = host(2, 0);
        let long = Request { prompt: vec![1; 64], ..request(1) };
        let mut reception = host.submit(vec![(request(1), 1), (long, 1)]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let told = runtime.block_on(reception.next());
        let context = RequestError::Context { tokens: 64, context: 64 };
        assert!(matches!(told, Some(Told::Refused(1, error)) if error == context));
        assert!(runtime.block_on(reception.next()).is_none());
        assert_eq!(host.figures().live.load(Relaxed), 0);
    }

    #[test]
    fn a_host_that_nobody_has_ends_though_it_knows_more_pages_than_its_folder_holds() {
        let (model, tokenizer, limits) = parts(1);
        let folder = tempfile::tempdir().unwrap();
        let page = herd_engine::plan::pages_bytes(model.config(), limits, 1) as u64;
        let (bytes, identity, log) = (page + page / 2, [0; 32], |_: &str| {});
        let shelf = ShelfSettings { folder: folder.path().into(), bytes, identity, log };
        let aids = Aids { speculation: None, shelf: Some(shelf) };
        let host = Host::start_with(model, tokenizer, limits, 1, aids);
        let long = Request { max_tokens: Some(50), ..request(1) };
        assert_eq!(hear(host.submit(vec![(long, 1)]).unwrap()).unwrap().len(), 50);
        let left = Arc::downgrade(&host.figures); // the thread has them to its end
        drop(host);
        while left.strong_count() > 0 {
            thread::yield_now();
        }
        let root = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let names = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(names.filter(|path| path.extension().is_some()).count(), 1);
    }
}
