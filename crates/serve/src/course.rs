//! An answer in the making: from what the engine tells to the bytes of a body, streamed or whole.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use herd_engine::What;
use hyper::body::Frame;
use serde_json::Value;

use crate::answer::{Choice, Part, Reader};
use crate::host::{Reception, Told};
use crate::keys::Pass;
use crate::refusal::Refusal;
use crate::roster::Visit;
use crate::served::Served;
use crate::wire::Wire;

/// An answer in the making.
pub struct Course {
    /// What the engine tells.
    pub reception: Reception,
    /// A reader for each of its answers.
    pub readers: Vec<Reader>,
    /// How it is written.
    pub wire: Box<dyn Wire>,
    /// The model as the caller sees it.
    pub served: Arc<Served>,
    /// The model stays until the answer is over.
    pub _visit: Visit,
    /// Whose answers they are.
    pub pass: Pass,
}

impl Course {
    /// Waits for all answers.
    pub async fn whole(mut self) -> Result<Value, Refusal> {
        let mut choices = vec![Choice::default(); self.readers.len()];
        while let Some(told) = self.reception.next().await {
            let (answer, parts) = self.parts(told)?;
            parts.into_iter().for_each(|part| choices[answer].take(part));
        }
        Ok(self.wire.whole(choices, &self.served))
    }

    fn parts(&mut self, told: Told) -> Result<(usize, Vec<Part>), Refusal> {
        match told {
            Told::Event(answer, what) => {
                if let What::Token(_) = what {
                    self.pass.wrote(1);
                }
                Ok((answer, self.readers[answer].take(what, &self.served)?))
            }
            Told::Fault(_) => Err(Refusal::fault()),
            Told::Taken | Told::Refused(..) => Ok((0, Vec::new())),
        }
    }

    /// A body that gives parts as they come. All that is there at once goes out at once.
    pub fn stream(mut self) -> Response {
        let kind = self.wire.stream_type();
        let mut first = String::new();
        self.wire.open(&mut first);
        let frames = Frames { course: Some(self), first };
        let mut response = Response::new(Body::new(frames));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Proxies that collect an answer before they pass it on are asked not to.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    /// Adds what is told to `out`; whether the stream is over.
    fn write(&mut self, told: Option<Told>, out: &mut String) -> bool {
        let Some(told) = told else {
            self.wire.close(out);
            return true;
        };
        match self.parts(told) {
            Ok((answer, parts)) => {
                for part in parts {
                    self.wire.part(answer, part, &self.served, out);
                }
                false
            }
            Err(refusal) => {
                self.wire.broken(&refusal, out);
                true
            }
        }
    }
}

/// The stream of a body.
struct Frames {
    /// Absent once it is over.
    course: Option<Course>,
    first: String,
}

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut out = std::mem::take(&mut self.first);
        let Some(course) = &mut self.course else { return Poll::Ready(None) };
        let mut over = false;
        while !over {
            match course.reception.poll(context) {
                Poll::Ready(told) => over = course.write(told, &mut out),
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if over {
            self.course = None;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(out)))))
    }
}
