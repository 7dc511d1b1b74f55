//! What is between two streams in a storm: bytes go on from one to the other, through pipes too, and none is lost when that
//! is cut short.

use std::io;
use std::rc::Rc;

use proactor::net::{CopyTo, Family, PipeReader, PipeWriter, Stream};
use proactor::{Task, spawn};

use super::streams::{Pattern, receives, sends};
use super::{End, Storm, assert_cancelled, join};

/// Copies until there is no more, and says how much as far as that can be said.
async fn copies<A: 'static, B: 'static>(
    storm: Rc<Storm>,
    ends: (Rc<A>, Rc<B>),
    copy: impl for<'a> Fn(&'a A, &'a B) -> CopyTo<'a> + Copy + 'static,
) -> io::Result<()> {
    let mut random = storm.random();
    while storm.goes_on() {
        let (from, to) = ends.clone();
        match storm.cut("copy_to", &mut random, async move { copy(&from, &to).await }).await {
            End::Answered(Ok(_)) => return Ok(()),
            End::Answered(Err(failed)) => assert_cancelled(&failed.error),
            End::Dropped => {}
        }
    }
    // The storm is over: the rest goes on in peace.
    copy(&ends.0, &ends.1).await?;
    Ok(())
}

/// There through a pipe, back from stream to stream.
pub(super) fn relayed<F: Family, G: Family>(
    storm: &Rc<Storm>,
    near: (Stream<F>, Stream<F>),
    pipe: (PipeReader, PipeWriter),
    far: (Stream<G>, Stream<G>),
    pattern: &Rc<Pattern>,
) -> Task<io::Result<()>> {
    let (storm, pattern) = (storm.clone(), pattern.clone());
    let (client, inner) = (Rc::new(near.0), Rc::new(near.1));
    let (outer, server) = (Rc::new(far.0), Rc::new(far.1));
    let (reader, writer) = (Rc::new(pipe.0), Rc::new(pipe.1));
    spawn(async move {
        let there = spawn(sends(storm.clone(), client.clone(), pattern.clone()));
        let back = spawn(sends(storm.clone(), server.clone(), pattern.clone()));
        let comes_there = spawn(receives(storm.clone(), server, pattern.clone()));
        let comes_back = spawn(receives(storm.clone(), client, pattern));
        let into = spawn(copies(storm.clone(), (inner.clone(), writer.clone()), |from, to| from.copy_to(to)));
        let out_of = spawn(copies(storm.clone(), (reader, outer.clone()), |from, to| from.copy_to(to)));
        let straight = spawn(copies(storm, (outer.clone(), inner.clone()), |from, to| from.copy_to(to)));
        join(into).await?;
        Rc::into_inner(writer).expect("nobody copies any more").close().await?;
        join(out_of).await?;
        outer.shutdown_write().await?;
        assert_eq!(join(there).await?, join(comes_there).await?, "bytes were lost or doubled in the pipe");
        join(straight).await?;
        inner.shutdown_write().await?;
        assert_eq!(join(back).await?, join(comes_back).await?, "bytes were lost or doubled");
        Ok(())
    })
}
