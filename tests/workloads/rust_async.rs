//! `rust_async [SECONDS]`: a future that awaits a future that awaits …, 100 deep, polled by tokio. Each level costs two
//! frames (the future's `poll`, and that of the box around the next), so the stack is more than 200 frames deep.
//! True chain: _start, libc, …, 100 times `rust_async::level::{{closure}}`, `rust_async::async_hot`.

use std::{
    future::Future,
    hint::black_box,
    pin::Pin,
    time::{Duration, Instant},
};

const DEPTH: u32 = 100;

fn level(depth: u32, duration: Duration) -> Pin<Box<dyn Future<Output = u64>>> {
    Box::pin(async move {
        if depth > 1 {
            black_box(level(depth - 1, duration)).await + 1
        } else {
            tokio::task::yield_now().await;
            async_hot(duration)
        }
    })
}

#[inline(never)]
fn async_hot(duration: Duration) -> u64 {
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < duration {
        for i in 0..20_000_u64 {
            black_box(i);
        }
        rounds += 1;
    }
    rounds
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(1.5), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    black_box(runtime.block_on(level(DEPTH, Duration::from_secs_f64(seconds))));
    Ok(())
}
