//! Stop strings: ends an answer where one of a few byte strings appears, however tokens cut it.
//!
//! An Aho-Corasick automaton reads the answer byte by byte. Its state is the longest end of the
//! text that could begin a stop string: those bytes, and only those, are held back.

use std::collections::VecDeque;

use thiserror::Error;

/// Why a list of stop strings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StopError {
    /// An empty string stands at every place.
    #[error("stop string {index} is empty")]
    Empty {
        /// Its place in the list.
        index: usize,
    },
    /// The strings together exceed [`BYTES_MAX`].
    #[error("the stop strings hold {bytes} bytes, at most {BYTES_MAX} are allowed")]
    TooLong {
        /// Their length together.
        bytes: usize,
    },
}

/// Stop strings may hold this many bytes together: far above any use, far below any harm.
pub const BYTES_MAX: usize = 1 << 16;

const ROOT: u32 = 0;

/// Finds the first stop string in a text that arrives in pieces.
///
/// The text ends at the smallest end of any stop string; of those ending there the longest is
/// cut off. Time is linear in the text (times the logarithm of the number of stop strings), and
/// nothing is allocated while the pieces pass, once the buffer of held bytes has grown.
///
/// ```
/// let mut stop = herd_engine::stop::StopMatcher::new(&["END".as_bytes()])?;
/// let mut out = Vec::new();
/// assert_eq!(stop.push(b"so E", &mut out), None);
/// assert_eq!(out, b"so "); // "E" may begin "END"
/// assert_eq!(stop.push(b"ND, and more", &mut out), Some(0));
/// assert_eq!(out, b"so ");
/// # Ok::<(), herd_engine::stop::StopError>(())
/// ```
#[derive(Clone, Debug)]
pub struct StopMatcher {
    nodes: Vec<Node>,
    held: Vec<u8>,
    state: u32,
    found: Option<usize>,
}

#[derive(Clone, Debug)]
struct Node {
    /// Next byte and node, sorted by byte.
    next: Vec<(u8, u32)>,
    /// The node of the longest proper end of this node's text.
    fail: u32,
    /// Bytes from the root.
    depth: usize,
    /// The longest stop string that ends here: its length and place in the list.
    ends: Option<(usize, usize)>,
}

impl StopMatcher {
    /// A matcher for these strings; an empty list never stops.
    pub fn new<S: AsRef<[u8]>>(stops: &[S]) -> Result<StopMatcher, StopError> {
        let bytes = stops.iter().map(|s| s.as_ref().len()).sum();
        if bytes > BYTES_MAX {
            return Err(StopError::TooLong { bytes });
        }
        let mut nodes = vec![Node { next: vec![], fail: ROOT, depth: 0, ends: None }];
        for (index, stop) in stops.iter().enumerate() {
            if stop.as_ref().is_empty() {
                return Err(StopError::Empty { index });
            }
            insert(&mut nodes, stop.as_ref(), index);
        }
        link(&mut nodes);
        Ok(StopMatcher { nodes, held: vec![], state: ROOT, found: None })
    }

    /// Appends to `out` what of the text so far cannot belong to a stop string.
    ///
    /// Gives the place in the list of the stop string found, and then takes nothing more.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        if self.found.is_some() {
            return self.found;
        }
        for &byte in bytes {
            self.held.push(byte);
            self.state = self.step(byte);
            if let Some((len, index)) = self.nodes[self.state as usize].ends {
                self.held.truncate(self.held.len() - len);
                out.append(&mut self.held);
                self.found = Some(index);
                return self.found;
            }
        }
        let free = self.held.len() - self.nodes[self.state as usize].depth;
        out.extend(self.held.drain(..free));
        None
    }

    /// Appends what was held back: the text is over.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.state = ROOT;
    }

    /// Forgets the text, to begin another.
    pub fn reset(&mut self) {
        self.held.clear();
        self.state = ROOT;
        self.found = None;
    }

    /// Bytes held back at present.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Each step down was paid for by a step up, so a text of n bytes takes at most 2 n steps.
    fn step(&self, byte: u8) -> u32 {
        let mut state = self.state;
        loop {
            match child(&self.nodes[state as usize], byte) {
                Some(next) => return next,
                None if state == ROOT => return ROOT,
                None => state = self.nodes[state as usize].fail,
            }
        }
    }
}

fn child(node: &Node, byte: u8) -> Option<u32> {
    node.next.binary_search_by_key(&byte, |&(b, _)| b).ok().map(|i| node.next[i].1)
}

fn insert(nodes: &mut Vec<Node>, stop: &[u8], index: usize) {
    let mut at = ROOT;
    for (depth, &byte) in stop.iter().enumerate() {
        let new = nodes.len() as u32;
        let next = &mut nodes[at as usize].next;
        match next.binary_search_by_key(&byte, |&(b, _)| b) {
            Ok(i) => at = next[i].1,
            Err(i) => {
                next.insert(i, (byte, new));
                nodes.push(Node { next: vec![], fail: ROOT, depth: depth + 1, ends: None });
                at = new;
            }
        }
    }
    nodes[at as usize].ends.get_or_insert((stop.len(), index));
}

/// Sets `fail` and the inherited `ends`, node by node in order of depth.
fn link(nodes: &mut [Node]) {
    let mut queue: VecDeque<u32> = VecDeque::from([ROOT]);
    while let Some(at) = queue.pop_front() {
        for i in 0..nodes[at as usize].next.len() {
            let (byte, node) = nodes[at as usize].next[i];
            let fail = if at == ROOT { ROOT } else { failure(nodes, at, byte) };
            let inherited = nodes[fail as usize].ends;
            let node_ref = &mut nodes[node as usize];
            node_ref.fail = fail;
            node_ref.ends = node_ref.ends.or(inherited);
            queue.push_back(node);
        }
    }
}

fn failure(nodes: &[Node], parent: u32, byte: u8) -> u32 {
    let mut at = parent;
    while at != ROOT {
        at = nodes[at as usize].fail;
        if let Some(node) = child(&nodes[at as usize], byte) {
            return node;
        }
    }
    ROOT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: the text before the stop string that ends first, the longest of those.
    fn naive(stops: &[Vec<u8>], text: &[u8]) -> (Vec<u8>, Option<usize>) {
        for end in 1..=text.len() {
            let here = (0..stops.len()).filter(|&i| text[..end].ends_with(&stops[i]));
            if let Some(i) = here.min_by_key(|&i| (std::cmp::Reverse(stops[i].len()), i)) {
                return (text[..end - stops[i].len()].to_vec(), Some(i));
            }
        }
        (text.to_vec(), None)
    }

    fn run(stops: &[Vec<u8>], pieces: &[&[u8]]) -> (Vec<u8>, Option<usize>) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut out = vec![];
        for piece in pieces {
            if let Some(index) = matcher.push(piece, &mut out) {
                return (out, Some(index));
            }
        }
        matcher.flush(&mut out);
        (out, None)
    }

    #[test]
    fn a_stop_string_is_found_wherever_tokens_cut_it() {
        let text = "Ja, gewiß.\n\nUser: hello".as_bytes();
        let stops = [b"\nUser:".to_vec(), "ß!".as_bytes().to_vec()];
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(run(&stops, &pieces), ("Ja, gewiß.\n".into(), Some(0)));
            }
        }
    }

    #[test]
    fn only_what_may_begin_a_stop_string_is_held() {
        let mut matcher = StopMatcher::new(&["</s>", "\n\n"]).unwrap();
        let mut out = vec![];
        for (piece, held) in [("a<", 1), ("/", 2), ("b", 0), ("</s", 3), ("<", 1), ("\n", 1)] {
            matcher.push(piece.as_bytes(), &mut out);
            assert_eq!(matcher.held_bytes(), held, "after {piece:?}");
        }
        matcher.flush(&mut out);
        assert_eq!(out, b"a</b</s<\n");
    }

    #[test]
    fn after_a_stop_nothing_more_comes_out_until_reset() {
        let mut matcher = StopMatcher::new(&["."]).unwrap();
        let mut out = vec![];
        assert_eq!(matcher.push(b"a.b", &mut out), Some(0));
        assert_eq!(matcher.push(b"c", &mut out), Some(0));
        matcher.flush(&mut out);
        assert_eq!(out, b"a");
        matcher.reset();
        assert_eq!(matcher.push(b"c", &mut out), None);
        assert_eq!(out, b"ac");
    }

    #[test]
    fn hostile_lists_are_refused() {
        assert_eq!(StopMatcher::new(&["a", ""]).unwrap_err(), StopError::Empty { index: 1 });
        let long = vec![b'a'; BYTES_MAX + 1];
        assert!(matches!(StopMatcher::new(&[long]), Err(StopError::TooLong { bytes: 65537 })));
    }

    #[test]
    fn a_long_run_of_almost_matches_takes_linear_time() {
        let stop = [vec![b'a'; 1000], vec![b'b']].concat();
        let text = vec![b'a'; 1_000_000];
        let started = std::time::Instant::now();
        assert_eq!(run(&[stop], &text.chunks(3).collect::<Vec<_>>()).0, text);
        assert!(started.elapsed().as_secs() < 5);
    }

    proptest! {
        #[test]
        fn any_cut_of_any_text_agrees_with_the_definition(
            stops in prop::collection::vec(prop::collection::vec(b'a'..=b'c', 1..5), 0..5),
            pieces in prop::collection::vec(prop::collection::vec(b'a'..=b'c', 0..4), 0..12),
        ) {
            let text = pieces.concat();
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(run(&stops, &pieces), naive(&stops, &text));
        }
    }
}
