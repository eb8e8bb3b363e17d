//! Bodies: how long one may be, and how much room all have that are being read.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::Refusal;

/// Bodies of the greatest length for which there is room at once.
const LONGEST_AT_ONCE: usize = 16;

/// The room for bodies: a permit for each byte.
pub struct Bodies {
    room: Arc<Semaphore>,
    /// Bytes of one at most.
    most: usize,
}

/// A body, and its room, which is given back with it.
struct Held {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    /// Room for bodies of `most` bytes each.
    pub fn new(most: usize) -> Bodies {
        let room = most.saturating_mul(LONGEST_AT_ONCE).min(Semaphore::MAX_PERMITS);
        Bodies { room: Arc::new(Semaphore::new(room)), most }
    }

    /// A whole body. It counts until what is given back is dropped.
    ///
    /// Errors: 413 where it is too long, 503 where all bodies together are, 400 where it breaks off.
    pub async fn read(&self, mut body: Body) -> Result<Bytes, Refusal> {
        let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let broken = |error| Refusal::new(400, format!("the body cannot be read: {error}"));
            let Ok(piece) = frame.map_err(broken)?.into_data() else { continue };
            if piece.len() > self.most - bytes.len() {
                return Err(Refusal::new(413, format!("the body exceeds {} bytes", self.most)));
            }
            let more = self.take(piece.len())?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Bytes::from_owner(Held { bytes, _room: room }))
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let permits = u32::try_from(bytes).ok();
        permits.and_then(|n| Arc::clone(&self.room).try_acquire_many_owned(n).ok()).ok_or_else(
            || Refusal {
                retry_after: Some(1),
                code: Some("bodies_full"),
                ..Refusal::new(503, "the bodies that are read leave no room for this one")
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bodies: &Bodies, length: usize) -> Result<Bytes, u16> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(bodies.read(Body::from(vec![b'x'; length])));
        read.map_err(|refusal| refusal.status)
    }

    #[test]
    fn bodies_have_a_bound_each_and_one_together() {
        let bodies = Bodies::new(10);
        assert_eq!(read(&bodies, 11), Err(413));
        let mut held: Vec<Bytes> =
            (0..LONGEST_AT_ONCE).map(|_| read(&bodies, 10).unwrap()).collect();
        assert_eq!(read(&bodies, 1), Err(503));
        let part = held.pop().unwrap().slice(..3);
        assert_eq!(read(&bodies, 1), Err(503));
        drop(part);
        assert_eq!(read(&bodies, 10).unwrap().len(), 10);
        assert_eq!(read(&bodies, 0).unwrap().len(), 0);
    }
}
