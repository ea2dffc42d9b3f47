//! Takes in the body of a request: as much as one may have, as fast as one must be, and no more at
//! a time over all requests than the budget.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use hyper::body::Body;
use std::pin::pin;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Bytes of one request.
pub const MAX_BODY: usize = 64 << 20;

/// Bytes of all bodies at a time.
const BUDGET: usize = 256 << 20;

/// One permit of the budget stands for so many bytes.
const UNIT: usize = 1 << 10;

/// How long a body may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// One of which nothing comes for so long is given up.
    pub idle: Duration,
    /// None may take longer as a whole.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { idle: Duration::from_secs(10), total: Duration::from_secs(60) }
    }
}

/// What all bodies together may take.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET / UNIT)))
    }
}

/// A whole body; its share of the budget is given back with it.
#[derive(Debug)]
pub struct Whole {
    pub bytes: Bytes,
    pub _permit: Option<OwnedSemaphorePermit>,
}

/// Why a body is not taken.
pub type Refused = (StatusCode, String);

/// Takes in a body.
pub async fn take<B>(body: B, budget: &Budget, patience: Patience) -> Result<Whole, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let begun = Instant::now();
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let announced = announced.and_then(|length| usize::try_from(length).ok());
    let mut body = pin!(body);
    let mut taken = Taken { bytes: Bytes::new(), more: BytesMut::new(), permit: None };
    loop {
        let limit = (Instant::now() + patience.idle).min(begun + patience.total);
        let next = timeout_at(limit, std::future::poll_fn(|cx| body.as_mut().poll_frame(cx))).await;
        match next {
            Ok(None) => return Ok(taken.whole()),
            Ok(Some(Ok(frame))) => {
                // Trailers mean nothing here.
                if let Ok(data) = frame.into_data() {
                    taken.add(data, announced, budget)?;
                }
            }
            Ok(Some(Err(error))) => {
                return Err((
                    StatusCode::BAD_REQUEST,
                    format!("the body ended early or is malformed: {error}"),
                ));
            }
            Err(_) => {
                return Err((
                    StatusCode::REQUEST_TIMEOUT,
                    format!(
                        "the body came too slowly: nothing for {:?}, or not all within {:?}",
                        patience.idle, patience.total
                    ),
                ));
            }
        }
    }
}

fn too_large() -> Refused {
    (
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("a request may have {MAX_BODY} bytes; send smaller pieces"),
    )
}

/// What came so far. A body in one piece is never copied.
struct Taken {
    bytes: Bytes,
    more: BytesMut,
    permit: Option<OwnedSemaphorePermit>,
}

impl Taken {
    fn add(
        &mut self,
        data: Bytes,
        announced: Option<usize>,
        budget: &Budget,
    ) -> Result<(), Refused> {
        if data.is_empty() {
            return Ok(());
        }
        let total = self.bytes.len() + self.more.len() + data.len();
        if total > MAX_BODY {
            return Err(too_large());
        }
        self.reserve(total, budget)?;
        if self.bytes.is_empty() && self.more.is_empty() {
            self.bytes = data;
            return Ok(());
        }
        if self.more.is_empty() {
            // Pages that nothing was written to take no memory.
            self.more.reserve(announced.unwrap_or(2 * total));
            self.more.extend_from_slice(&self.bytes);
            self.bytes = Bytes::new();
        }
        self.more.extend_from_slice(&data);
        Ok(())
    }

    fn reserve(&mut self, total: usize, budget: &Budget) -> Result<(), Refused> {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let lacking = total.div_ceil(UNIT).saturating_sub(held);
        let Ok(lacking @ 1..) = u32::try_from(lacking) else { return Ok(()) };
        let Ok(permit) = Arc::clone(&budget.0).try_acquire_many_owned(lacking) else {
            return Err((
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the bodies of all requests together may have {BUDGET} bytes; try again"),
            ));
        };
        match &mut self.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }

    fn whole(self) -> Whole {
        let bytes = if self.more.is_empty() { self.bytes } else { self.more.freeze() };
        Whole { bytes, _permit: self.permit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body as Made;
    use futures_util::stream;

    fn pieces(pieces: Vec<Result<Bytes, std::io::Error>>) -> Made {
        Made::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn pieces_become_one_and_one_is_not_copied() {
        let budget = Budget::default();
        let one = Bytes::from(vec![7; 100]);
        let whole = take(Made::from(one.clone()), &budget, Patience::default()).await.unwrap();
        assert!(std::ptr::eq(&raw const whole.bytes[0], &raw const one[0]));
        let parts = vec![Ok("ab".into()), Ok(Bytes::new()), Ok("cd".into()), Ok("e".into())];
        let whole = take(pieces(parts), &budget, Patience::default()).await.unwrap();
        assert_eq!(whole.bytes, "abcde");
        assert_eq!(take(Made::empty(), &budget, Patience::default()).await.unwrap().bytes, "");
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_kept() {
        let budget = Budget::default();
        let announced = Made::from(vec![0; MAX_BODY + 1]);
        assert_eq!(
            take(announced, &budget, Patience::default()).await.unwrap_err().0,
            StatusCode::PAYLOAD_TOO_LARGE
        );
        let part = Bytes::from(vec![0; MAX_BODY / 2]);
        let parts = pieces(vec![Ok(part.clone()), Ok(part), Ok("x".into())]);
        assert_eq!(
            take(parts, &budget, Patience::default()).await.unwrap_err().0,
            StatusCode::PAYLOAD_TOO_LARGE
        );
        assert_eq!(budget.0.available_permits(), BUDGET / UNIT, "a refused body keeps its share");
    }

    #[tokio::test]
    async fn all_bodies_share_a_budget() {
        let budget = Budget(Arc::new(Semaphore::new(3)));
        let first =
            take(Made::from(vec![0; 2 * UNIT]), &budget, Patience::default()).await.unwrap();
        let second =
            take(Made::from(vec![0; 2 * UNIT]), &budget, Patience::default()).await.unwrap_err();
        assert_eq!(second.0, StatusCode::SERVICE_UNAVAILABLE);
        drop(first);
        take(Made::from(vec![0; 2 * UNIT]), &budget, Patience::default()).await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_stops_is_given_up() {
        let patience = Patience { idle: Duration::from_millis(50), ..Patience::default() };
        let endless = stream::once(async { Ok::<_, std::io::Error>(Bytes::from("x")) });
        let stalled = Made::from_stream(stream::StreamExt::chain(endless, stream::pending()));
        let refused = take(stalled, &Budget::default(), patience).await.unwrap_err();
        assert_eq!(refused.0, StatusCode::REQUEST_TIMEOUT);
        let broken = pieces(vec![Ok("x".into()), Err(std::io::Error::other("gone"))]);
        let refused = take(broken, &Budget::default(), patience).await.unwrap_err();
        assert_eq!(refused.0, StatusCode::BAD_REQUEST);
    }
}
