use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;

use http::{HeaderMap, HeaderValue};

use super::*;

/// A body that came in these parts.
struct Came(VecDeque<Frame<Bytes>>);

impl Body for Came {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum())
    }
}

#[tokio::test]
async fn a_body_comes_whole_and_in_order_and_no_piece_is_longer_than_the_buffer() {
    let bytes: Bytes = (0..=u8::MAX).cycle().take(3 * BUFFER + 7).collect();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let parts = [bytes.slice(..1), bytes.slice(1..1), bytes.slice(1..2 * BUFFER), bytes.slice(2 * BUFFER..)];
    let frames = parts.map(Frame::data).into_iter().chain([Frame::trailers(trailers.clone())]);
    let mut pieces = Pieces::new(Came(frames.collect()));

    let (mut whole, mut told) = (Vec::new(), None);
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut pieces).poll_frame(cx)).await {
        match frame.into_data() {
            Ok(piece) => {
                assert!(piece.len() <= BUFFER, "{}", piece.len());
                whole.extend_from_slice(&piece);
                assert_eq!(pieces.size_hint().exact(), Some((bytes.len() - whole.len()) as u64));
            }
            Err(frame) => told = frame.into_trailers().ok(),
        }
        assert_eq!(pieces.is_end_stream(), told.is_some());
    }
    assert_eq!((whole, told), (bytes.to_vec(), Some(trailers)));
}
