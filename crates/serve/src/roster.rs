//! The models behind the door: which there are, which of them are loaded, and who is with them.
//!
//! A model that is asked for and is not there is loaded on a thread of its own, and whoever asks for it waits. Where its
//! plan does not fit beside the others, those that nobody is with go, the longest unused first; if that does not make
//! room, the caller is told. A model that nobody has been with for its time is unloaded.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use herd_engine::Limits;
use herd_model::llama::Llama;
use serde_json::Value;
use tokio::sync::watch;

use crate::fields::shorten;
use crate::host::{Aids, Figures, Host};
use crate::kept::Kept;
use crate::refusal::Refusal;
use crate::served::{Facts, Served};

/// What is known of a model before it is loaded.
#[derive(Clone, Debug)]
pub struct Card {
    /// What requests call it.
    pub name: String,
    /// The model that an adapter stands beside.
    pub base: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Its size.
    pub facts: Facts,
    /// Tokens of its context.
    pub context: usize,
    /// What names its weights: models that share them have the same.
    pub weights: String,
    /// Bytes of all that it shares with nobody: cache, activations, an adapter's own.
    pub own_bytes: usize,
    /// How long it stays when nobody is with it; `None` for ever.
    pub ttl: Option<Duration>,
}

/// A model as it comes from its files.
pub struct Loaded {
    /// What the door must know of it.
    pub served: Served,
    /// Its weights.
    pub model: Arc<Llama>,
    /// The engine's limits.
    pub limits: Limits,
    /// What helps its engine.
    pub aids: Aids,
}

/// Why a model cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The machine has no room for it.
    Memory(String),
    /// Its files cannot be used.
    Files(String),
}

/// Loads the model of this name.
pub type Load = dyn Fn(&str) -> Result<Loaded, LoadError> + Send + Sync;

/// What bounds the models.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Bytes of all models that are loaded at once.
    pub memory: usize,
    /// Answers that may wait for a model beside those that run.
    pub waiting: usize,
}

/// The models.
pub struct Roster {
    places: Mutex<Vec<Place>>,
    load: Box<Load>,
    rules: Rules,
    kept: Kept,
    /// What models did that are gone.
    retired: Figures,
}

struct Place {
    card: Card,
    stage: Stage,
    /// How long it stays this time; `None` for ever.
    keep: Option<Duration>,
}

type Told = Option<Result<Arc<Ready>, Refusal>>;

enum Stage {
    Away,
    Loading(watch::Receiver<Told>),
    Here(Arc<Ready>),
}

/// A model that answers.
pub struct Ready {
    /// What is known of it.
    pub served: Arc<Served>,
    /// The thread that computes.
    pub host: Host,
    /// The same as `served`, as each key sees it.
    views: Mutex<HashMap<String, Arc<Served>>>,
    model: Weak<Llama>,
    guests: AtomicUsize,
    touched: Mutex<Instant>,
}

/// Somebody with a model; it stays while they do.
pub struct Visit {
    ready: Arc<Ready>,
}

/// A model in a list.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What is known of it.
    pub card: Card,
    /// Whether it is loaded, and until when if nobody comes; `None` for ever.
    pub loaded: Option<Option<Duration>>,
    /// Whether it is being loaded.
    pub loading: bool,
}

impl Roster {
    /// These models, none of them loaded; the first is that of requests which name none.
    ///
    /// Panics if there is none, or a name stands twice: settings are checked before.
    pub fn new(cards: Vec<Card>, rules: Rules, load: Box<Load>) -> Roster {
        assert!(!cards.is_empty(), "a roster without a model");
        let names: HashSet<&str> = cards.iter().map(|card| card.name.as_str()).collect();
        assert_eq!(names.len(), cards.len(), "two models of one name");
        let place = |card: Card| Place { keep: card.ttl, card, stage: Stage::Away };
        let places = Mutex::new(cards.into_iter().map(place).collect());
        Roster { places, load, rules, kept: Kept::default(), retired: Figures::default() }
    }

    /// The name by which a model is known here: `:latest` may stand behind it, and none is the first's.
    pub fn name(&self, asked: Option<&str>) -> Result<String, Refusal> {
        let places = self.places();
        let Some(asked) = asked else { return Ok(places[0].card.name.clone()) };
        let known = |name: &str| places.iter().any(|place| place.card.name == name);
        let plain = asked.strip_suffix(":latest").filter(|name| known(name));
        match plain.or(known(asked).then_some(asked)) {
            Some(name) => Ok(name.to_owned()),
            None => Err(unknown(asked, &places)),
        }
    }

    /// Goes to the model of this name, which is loaded if it is not there.
    pub async fn enter(self: &Arc<Roster>, name: &str) -> Result<Visit, Refusal> {
        let mut told = match self.knock(name)? {
            Knock::In(visit) => return Ok(visit),
            Knock::Wait(told) => told,
        };
        match told.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(ready))) => Ok(Visit::new(ready)),
            Ok(Some(Err(refusal))) => Err(refusal.clone()),
            Ok(None) | Err(_) => Err(Refusal::fault()), // the thread that loads has panicked
        }
    }

    /// The same before anything is served, for a thread that may wait.
    pub fn load_now(self: &Arc<Roster>, name: &str) -> Result<(), Refusal> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime =
            runtime.map_err(|e| Refusal::new(503, format!("no thread to wait on: {e}")))?;
        runtime.block_on(self.enter(name)).map(drop)
    }

    /// The first model, if it is loaded.
    pub fn first(&self) -> Result<Arc<Ready>, Refusal> {
        match &self.places()[0].stage {
            Stage::Here(ready) => Ok(Arc::clone(ready)),
            Stage::Away | Stage::Loading(_) => Err(Refusal {
                retry_after: Some(1),
                code: Some("model_loading"),
                ..Refusal::new(503, "the model is not loaded")
            }),
        }
    }

    /// Lets a model stay so long from now on when nobody is with it; `None` for ever.
    pub fn keep(&self, name: &str, keep: Option<Duration>) {
        if let Some(place) = self.places().iter_mut().find(|place| place.card.name == name) {
            place.keep = keep;
        }
    }

    /// Unloads a model; whether it was there. Errors: somebody is with it, or it is being loaded.
    pub fn unload(&self, name: &str) -> Result<bool, Refusal> {
        let mut places = self.places();
        let Some(place) = places.iter_mut().find(|place| place.card.name == name) else {
            return Err(unknown(name, &places));
        };
        match &place.stage {
            Stage::Away => Ok(false),
            Stage::Loading(_) => Err(busy(format!("model {name:?} is being loaded"))),
            Stage::Here(ready) if ready.guests() > 0 => {
                Err(busy(format!("{} requests are with model {name:?}", ready.guests())))
            }
            Stage::Here(_) => {
                self.dismiss(place);
                Ok(true)
            }
        }
    }

    /// Unloads what nobody has been with for its time.
    pub fn sweep(&self) {
        for place in self.places().iter_mut() {
            let Stage::Here(ready) = &place.stage else { continue };
            let over = place.keep.is_some_and(|keep| ready.idle() >= keep);
            if over && ready.guests() == 0 {
                self.dismiss(place);
            }
        }
    }

    /// All models in their order.
    pub fn seen(&self) -> Vec<Seen> {
        let one = |place: &Place| {
            let loaded = match &place.stage {
                Stage::Here(ready) => Some(place.keep.map(|keep| match ready.guests() {
                    0 => keep.saturating_sub(ready.idle()),
                    _ => keep,
                })),
                Stage::Away | Stage::Loading(_) => None,
            };
            let loading = matches!(place.stage, Stage::Loading(_));
            Seen { card: place.card.clone(), loaded, loading }
        };
        self.places().iter().map(one).collect()
    }

    /// What all models did and do, those that are gone included.
    pub fn figures(&self) -> Figures {
        let sum = Figures::default();
        sum.add(&self.retired);
        self.loaded().iter().for_each(|ready| sum.add(ready.host.figures()));
        sum
    }

    /// The models that are loaded.
    pub fn loaded(&self) -> Vec<Arc<Ready>> {
        let here = |place: &Place| match &place.stage {
            Stage::Here(ready) => Some(Arc::clone(ready)),
            Stage::Away | Stage::Loading(_) => None,
        };
        self.places().iter().filter_map(here).collect()
    }

    /// Answers that are kept, whatever model gave them.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Bytes that the models take by their plans.
    pub fn bytes(&self) -> usize {
        held(&self.places(), &HashSet::new())
    }

    fn knock(self: &Arc<Roster>, name: &str) -> Result<Knock, Refusal> {
        let mut places = self.places();
        let Some(at) = places.iter().position(|place| place.card.name == name) else {
            return Err(unknown(name, &places));
        };
        match &places[at].stage {
            Stage::Here(ready) => return Ok(Knock::In(Visit::new(ready))),
            Stage::Loading(told) => return Ok(Knock::Wait(told.clone())),
            Stage::Away => {}
        }
        let leaving = self.make_room(&mut places, at)?;
        let (tell, told) = watch::channel(None);
        places[at].stage = Stage::Loading(told.clone());
        places[at].keep = places[at].card.ttl;
        let (roster, name) = (Arc::clone(self), name.to_owned());
        let work = move || roster.bring(&name, &leaving, &tell);
        let spawned = thread::Builder::new().name("herd-load".into()).spawn(work);
        if spawned.is_err() {
            places[at].stage = Stage::Away;
            return Err(Refusal::new(503, "the system gives no thread to load the model on"));
        }
        Ok(Knock::Wait(told))
    }

    /// Unloads what is least in use until the model at `at` fits; what is on its way out.
    fn make_room(&self, places: &mut [Place], at: usize) -> Result<Vec<Weak<Llama>>, Refusal> {
        let mut going = HashSet::new();
        while held(places, &going).saturating_add(cost(places, &going, at)) > self.rules.memory {
            let idle = |i: &usize| match &places[*i].stage {
                Stage::Here(ready) => ready.guests() == 0 && !going.contains(i),
                Stage::Away | Stage::Loading(_) => false,
            };
            let since = |i: &usize| match &places[*i].stage {
                Stage::Here(ready) => ready.idle(),
                Stage::Away | Stage::Loading(_) => Duration::ZERO,
            };
            let Some(oldest) = (0..places.len()).filter(idle).max_by_key(since) else {
                return Err(self.no_room(places, at));
            };
            going.insert(oldest);
        }
        Ok(going.into_iter().filter_map(|i| self.dismiss(&mut places[i])).collect())
    }

    fn no_room(&self, places: &[Place], at: usize) -> Refusal {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let needed = mib(cost(places, &HashSet::new(), at));
        let (held, memory) = (mib(held(places, &HashSet::new())), mib(self.rules.memory));
        let busy = places.iter().filter(|place| !matches!(place.stage, Stage::Away));
        let busy: Vec<&str> = busy.map(|place| place.card.name.as_str()).collect();
        let message = format!(
            "model {:?} needs {needed} MiB, and of {memory} MiB {held} are held by models in use ({})",
            places[at].card.name,
            busy.join(", ")
        );
        let (retry_after, code) = (Some(5), Some("no_memory"));
        Refusal { retry_after, code, ..Refusal::new(503, message) }
    }

    /// Takes a model out; its memory is free once nobody has it any more.
    fn dismiss(&self, place: &mut Place) -> Option<Weak<Llama>> {
        match std::mem::replace(&mut place.stage, Stage::Away) {
            Stage::Here(ready) => {
                self.retired.add(ready.host.figures());
                // What it had in hand is gone with it.
                let Figures { live, running, pages_held, pages, .. } = &self.retired;
                for gauge in [live, running, pages_held, pages] {
                    gauge.store(0, Relaxed);
                }
                Some(Weak::clone(&ready.model))
            }
            Stage::Away | Stage::Loading(_) => None,
        }
    }

    /// On a thread of its own: loads a model once those that leave are gone, and tells.
    fn bring(&self, name: &str, leaving: &[Weak<Llama>], tell: &watch::Sender<Told>) {
        let panicked = Restore { roster: self, name };
        while leaving.iter().any(|model| model.strong_count() > 0) {
            thread::sleep(Duration::from_millis(2));
        }
        let told = (self.load)(name).map_err(refused).map(|loaded| self.put_up(loaded));
        std::mem::forget(panicked);
        self.settle(name, told.as_ref().ok());
        let _ = tell.send(Some(told)); // who waited may have left
    }

    fn put_up(&self, loaded: Loaded) -> Arc<Ready> {
        let Loaded { mut served, model, limits, aids } = loaded;
        served.kept = Arc::new(self.kept.clone());
        let tokenizer = Arc::clone(&served.tokenizer);
        let weak = Arc::downgrade(&model);
        let host = Host::start_with(model, tokenizer, limits, self.rules.waiting, aids);
        Arc::new(Ready {
            served: Arc::new(served),
            host,
            views: Mutex::default(),
            model: weak,
            guests: AtomicUsize::new(0),
            touched: Mutex::new(Instant::now()),
        })
    }

    fn settle(&self, name: &str, ready: Option<&Arc<Ready>>) {
        if let Some(place) = self.places().iter_mut().find(|place| place.card.name == name) {
            place.stage = ready.map_or(Stage::Away, |ready| Stage::Here(Arc::clone(ready)));
        }
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        // Nothing that holds the lock leaves half of a change behind.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Knock {
    In(Visit),
    Wait(watch::Receiver<Told>),
}

/// Should loading panic, the model can be asked for again.
struct Restore<'a> {
    roster: &'a Roster,
    name: &'a str,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        self.roster.settle(self.name, None);
    }
}

impl Ready {
    /// The model as this key sees it: of kept answers, its own.
    pub fn served_for(&self, owner: Option<&str>) -> Arc<Served> {
        let Some(owner) = owner else { return Arc::clone(&self.served) };
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let view = || {
            let kept = Arc::new(self.served.kept.of(owner));
            Arc::new(Served { kept, ..(*self.served).clone() })
        };
        Arc::clone(views.entry(owner.to_owned()).or_insert_with(view))
    }

    fn guests(&self) -> usize {
        self.guests.load(Relaxed)
    }

    fn idle(&self) -> Duration {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn touch(&self) {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Visit {
    fn new(ready: &Arc<Ready>) -> Visit {
        ready.guests.fetch_add(1, Relaxed);
        ready.touch();
        Visit { ready: Arc::clone(ready) }
    }
}

impl Deref for Visit {
    type Target = Ready;

    fn deref(&self) -> &Ready {
        &self.ready
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.ready.touch();
        self.ready.guests.fetch_sub(1, Relaxed);
    }
}

/// Bytes of the models that are loaded or being loaded, without those that are going.
fn held(places: &[Place], going: &HashSet<usize>) -> usize {
    let mut weights = HashSet::new();
    let mut bytes = 0usize;
    for (i, place) in places.iter().enumerate() {
        if matches!(place.stage, Stage::Away) || going.contains(&i) {
            continue;
        }
        let shared = !weights.insert(place.card.weights.as_str());
        let own = if shared { 0 } else { place.card.facts.bytes };
        bytes = bytes.saturating_add(own).saturating_add(place.card.own_bytes);
    }
    bytes
}

/// Bytes that a model would add.
fn cost(places: &[Place], going: &HashSet<usize>, at: usize) -> usize {
    let card = &places[at].card;
    let shared = places.iter().enumerate().any(|(i, place)| {
        let there = !matches!(place.stage, Stage::Away) && !going.contains(&i);
        there && place.card.weights == card.weights
    });
    if shared { card.own_bytes } else { card.facts.bytes.saturating_add(card.own_bytes) }
}

fn unknown(asked: &str, places: &[Place]) -> Refusal {
    let names = || places.iter().map(|place| place.card.name.as_str());
    let near = herd_model::nearest(asked, names());
    let shown: String = asked.chars().take(80).collect();
    let message = match (places, near) {
        ([only], _) => format!("no model {shown:?} is served here, only {:?}", only.card.name),
        (_, Some(near)) => format!("no model {shown:?} is served here; did you mean {near:?}?"),
        (_, None) => {
            let some: Vec<&str> = names().take(8).collect();
            format!("no model {shown:?} is served here; there are {}", some.join(", "))
        }
    };
    Refusal { code: Some("model_not_found"), status: 404, ..Refusal::field("model", message) }
}

/// How long a model stays, as ollama says it: seconds, or `5m`, `1h30m`, `300ms`; below 0 for ever.
pub fn stay(value: &Value) -> Result<Option<Duration>, Refusal> {
    let seconds = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => seconds(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    match seconds {
        Some(seconds) if seconds < 0.0 => Ok(None),
        // More than that is for ever as well.
        Some(seconds) => Ok(Duration::try_from_secs_f64(seconds).ok()),
        None => {
            let message = format!(
                "keep_alive is {}, expected seconds or a time such as \"5m\"",
                shorten(value)
            );
            Err(Refusal::field("keep_alive", message))
        }
    }
}

/// A time in the words of Go: numbers, each with its unit; a number alone is seconds.
fn seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    if let Ok(number) = rest.parse::<f64>() {
        return number.is_finite().then_some(sign * number);
    }
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = &rest[end..];
        let length = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        sum += number
            * match &unit[..length] {
                "ns" => 1e-9,
                "us" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &unit[length..];
    }
    (!text.is_empty()).then_some(sign * sum)
}

fn busy(message: String) -> Refusal {
    Refusal { code: Some("model_busy"), ..Refusal::new(409, message) }
}

fn refused(error: LoadError) -> Refusal {
    match error {
        LoadError::Memory(message) => {
            Refusal { retry_after: Some(5), code: Some("no_memory"), ..Refusal::new(503, message) }
        }
        LoadError::Files(message) => {
            Refusal { code: Some("model_unusable"), ..Refusal::new(500, message) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place(name: &str, weights: &str, bytes: usize, own_bytes: usize) -> Place {
        let facts = Facts { bytes, ..Facts::default() };
        let card = Card {
            name: name.into(),
            base: None,
            created: 0,
            facts,
            context: 64,
            weights: weights.into(),
            own_bytes,
            ttl: None,
        };
        Place { card, stage: Stage::Away, keep: None }
    }

    #[test]
    fn times_are_read_as_ollama_writes_them() {
        let minutes = |m: u64| Some(Duration::from_secs(60 * m));
        for (value, wanted) in [
            (json!("5m"), minutes(5)),
            (json!("1h30m"), minutes(90)),
            (json!(60), minutes(1)),
            (json!("60"), minutes(1)),
            (json!(0), minutes(0)),
            (json!("300ms"), Some(Duration::from_millis(300))),
            (json!(-1), None),
            (json!("-1m"), None),
            (json!(1e300), None),
        ] {
            assert_eq!(stay(&value).unwrap(), wanted, "{value}");
        }
        for wrong in [json!(""), json!("5"), json!("m"), json!("5 m"), json!([]), json!("1.2.3s")] {
            assert_eq!(stay(&wrong).is_err(), wrong != json!("5"), "{wrong}");
        }
    }

    #[test]
    fn shared_weights_are_counted_once() {
        let (_tell, told) = watch::channel(None);
        let mut places =
            vec![place("a", "w", 100, 10), place("b", "w", 100, 5), place("c", "v", 50, 1)];
        let none = HashSet::new();
        assert_eq!((held(&places, &none), cost(&places, &none, 1)), (0, 105));
        places[0].stage = Stage::Loading(told.clone());
        assert_eq!((held(&places, &none), cost(&places, &none, 1)), (110, 5));
        places[1].stage = Stage::Loading(told);
        assert_eq!(held(&places, &none), 115);
        assert_eq!(held(&places, &HashSet::from([0])), 105);
    }

    #[test]
    fn names_are_found_and_unknown_ones_get_the_nearest() {
        let card = |name: &str| place(name, name, 1, 1).card;
        let load = Box::new(|_: &str| Err(LoadError::Files("broken".into())));
        let rules = Rules { memory: 100, waiting: 1 };
        let roster = Arc::new(Roster::new(vec![card("small"), card("large")], rules, load));
        assert_eq!(roster.name(None).unwrap(), "small");
        assert_eq!(roster.name(Some("large:latest")).unwrap(), "large");
        let refusal = roster.name(Some("smal")).unwrap_err();
        assert_eq!(refusal.status, 404);
        assert!(refusal.message.contains("did you mean \"small\"?"), "{}", refusal.message);
        // What cannot be loaded can be asked for again.
        for _ in 0..2 {
            let refusal = roster.load_now("large").unwrap_err();
            assert_eq!((refusal.status, refusal.message.as_str()), (500, "broken"));
        }
        assert_eq!((roster.bytes(), roster.unload("large")), (0, Ok(false)));
    }

    #[test]
    fn what_can_never_fit_is_refused_with_its_bytes() {
        let load = Box::new(|_: &str| -> Result<Loaded, LoadError> { unreachable!("no room") });
        let rules = Rules { memory: 3 << 20, waiting: 1 };
        let big = place("big", "big", 4 << 20, 0).card;
        let roster = Arc::new(Roster::new(vec![big], rules, load));
        let refusal = roster.load_now("big").unwrap_err();
        assert_eq!((refusal.status, refusal.retry_after), (503, Some(5)));
        assert!(refusal.message.contains("needs 4 MiB, and of 3 MiB 0 are held"));
    }
}
