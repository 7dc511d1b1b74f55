//! Text over byte streams: characters are decoded as they come, also those that are split over two receives.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;

use encoding_rs::{Decoder, DecoderResult, EncoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::error::Unsent;
use crate::stream::{
    AsyncResource, Attributes, ByteReceiveStream, ByteSendStream, ByteStream, ObjectReceiveStream,
    ObjectSendStream, ObjectStream, TypedAttributeProvider, UnreliableObjectReceiveStream,
    UnreliableObjectSendStream,
};
use crate::sync::ResourceGuard;

/// What to do with bytes that are no text in an encoding, or characters that it does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TextErrors {
    /// They are an error.
    #[default]
    Strict,
    /// Something stands in for them: U+FFFD when receiving, a question mark when sending.
    Replace,
    /// They are left out.
    Ignore,
}

/// How text is encoded, and what happens where that fails. The default is UTF-8, and errors are errors.
#[derive(Debug, Clone, Copy)]
pub struct TextOptions {
    encoding: &'static Encoding,
    errors: TextErrors,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { encoding: UTF_8, errors: TextErrors::Strict }
    }
}

impl TextOptions {
    /// Takes the encoding with this label, one of the [Encoding Standard](https://encoding.spec.whatwg.org/#names-and-labels)
    /// such as `utf-8`, `windows-1252` or `shift_jis`. A byte order mark is text like any other.
    ///
    /// # Errors
    /// If there is no such encoding.
    pub fn encoding(mut self, label: &str) -> io::Result<Self> {
        let unknown =
            || io::Error::new(io::ErrorKind::InvalidInput, format!("no encoding is called {label:?}"));
        self.encoding = Encoding::for_label(label.as_bytes()).ok_or_else(unknown)?;
        Ok(self)
    }

    /// What happens with what cannot be decoded or encoded.
    #[must_use]
    pub fn errors(mut self, errors: TextErrors) -> Self {
        self.errors = errors;
        self
    }

    /// The text as bytes.
    fn encode(self, text: &str) -> io::Result<Vec<u8>> {
        if self.encoding == UTF_8 {
            return Ok(text.into());
        }
        if self.encoding == UTF_16LE {
            return Ok(text.encode_utf16().flat_map(u16::to_le_bytes).collect());
        }
        if self.encoding == UTF_16BE {
            return Ok(text.encode_utf16().flat_map(u16::to_be_bytes).collect());
        }
        let mut encoder = self.encoding.new_encoder();
        let (mut bytes, mut rest) = (Vec::with_capacity(text.len() + 16), text);
        loop {
            let (result, read) = encoder.encode_from_utf8_to_vec_without_replacement(rest, &mut bytes, true);
            rest = &rest[read..];
            match (result, self.errors) {
                (EncoderResult::InputEmpty, _) => return Ok(bytes),
                (EncoderResult::OutputFull, _) => bytes.reserve(rest.len() + 16),
                (EncoderResult::Unmappable(c), TextErrors::Strict) => {
                    let what = format!("{} has no {c:?}", self.encoding.name());
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
                }
                (EncoderResult::Unmappable(_), TextErrors::Replace) => {
                    rest = replaced(&mut encoder, &mut bytes, rest)
                }
                (EncoderResult::Unmappable(_), TextErrors::Ignore) => {}
            }
        }
    }
}

/// Encodes a question mark in front of `rest`, in the state that the encoder is in.
fn replaced<'a>(encoder: &mut encoding_rs::Encoder, bytes: &mut Vec<u8>, rest: &'a str) -> &'a str {
    bytes.reserve(16);
    // Every encoding has one, and there is room for it.
    let _ = encoder.encode_from_utf8_to_vec_without_replacement("?", bytes, false);
    rest
}

/// A decoder with what it has to remember.
struct Decoding {
    decoder: RefCell<Decoder>,
    errors: TextErrors,
    encoding: &'static Encoding,
    /// The end came, or something that is no text.
    over: Cell<Over>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    Ended,
    Malformed,
}

impl Decoding {
    fn new(options: TextOptions) -> Self {
        Self {
            decoder: RefCell::new(options.encoding.new_decoder_without_bom_handling()),
            errors: options.errors,
            encoding: options.encoding,
            over: Cell::new(Over::No),
        }
    }

    /// The text that `bytes` complete; with `last`, of what is left too. Stops where something is no text.
    fn decode(&self, bytes: &[u8], last: bool) -> String {
        let decoder = &mut *self.decoder.borrow_mut();
        let (mut text, mut rest) = (String::with_capacity(bytes.len() + 16), bytes);
        loop {
            let (result, read) = decoder.decode_to_string_without_replacement(rest, &mut text, last);
            rest = &rest[read..];
            match (result, self.errors) {
                (DecoderResult::InputEmpty, _) => break,
                (DecoderResult::OutputFull, _) => text.reserve(rest.len() + 16),
                (DecoderResult::Malformed(..), TextErrors::Strict) => {
                    self.over.set(Over::Malformed);
                    return text;
                }
                (DecoderResult::Malformed(..), TextErrors::Replace) => text.push(char::REPLACEMENT_CHARACTER),
                (DecoderResult::Malformed(..), TextErrors::Ignore) => {}
            }
        }
        if last {
            self.over.set(Over::Ended);
        }
        text
    }

    async fn receive(&self, stream: &impl ByteReceiveStream) -> io::Result<Option<String>> {
        loop {
            match self.over.get() {
                Over::No => {}
                Over::Ended => return Ok(None),
                Over::Malformed => {
                    let what = format!("bytes that are no {}", self.encoding.name());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
            }
            let chunk = stream.receive().await?;
            let text = self.decode(chunk.as_deref().unwrap_or_default(), chunk.is_none());
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
    }
}

/// The options that a wrapper was made with, and what it wraps.
macro_rules! text_stream {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $value:expr),* }) => {
        $(#[$doc])*
        pub struct $name<S> {
            stream: S,
            $($field: $type,)*
        }

        impl<S> $name<S> {
            /// Text over `stream`, in UTF-8; what is none is an error.
            pub fn new(stream: S) -> Self {
                Self::with(stream, TextOptions::default())
            }

            /// Text over `stream`.
            pub fn with(stream: S, options: TextOptions) -> Self {
                Self { stream, $($field: $value(options),)* }
            }

            /// The wrapped stream.
            pub fn get_ref(&self) -> &S {
                &self.stream
            }
        }

        impl<S: AsyncResource> AsyncResource for $name<S> {
            fn aclose(&self) -> impl Future<Output = io::Result<()>> {
                self.stream.aclose()
            }
        }

        impl<S: TypedAttributeProvider> TypedAttributeProvider for $name<S> {
            fn extra_attributes(&self) -> Attributes<'_> {
                self.stream.extra_attributes()
            }
        }

        impl<S: fmt::Debug> fmt::Debug for $name<S> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("stream", &self.stream).finish_non_exhaustive()
            }
        }
    };
}

macro_rules! receives_text {
    ($name:ident, $bound:ident) => {
        impl<S: $bound> UnreliableObjectReceiveStream for $name<S> {
            type Item = String;

            /// Completes with text, never none, as soon as there is a whole character. At the end of the stream an
            /// unfinished one is treated like any other error.
            ///
            /// # Cancel safety
            /// *Nothing is lost.*
            ///
            /// # Errors
            /// `InvalidData`, if what came is no text; [`Busy`](crate::Busy), while another task receives; those of the
            /// stream.
            fn receive(&self) -> impl Future<Output = io::Result<Option<String>>> {
                async move {
                    let _receiving = self.guard.enter()?;
                    self.decoding.receive(&self.stream).await
                }
            }
        }

        impl<S: $bound> ObjectReceiveStream for $name<S> {}
    };
}

macro_rules! sends_text {
    ($name:ident, $bound:ident) => {
        impl<S: $bound> UnreliableObjectSendStream for $name<S> {
            type Item = String;

            /// Sends all of `text`.
            ///
            /// # Cancel safety
            /// *May have happened.*
            ///
            /// # Errors
            /// `InvalidInput`, if the encoding does not have a character: then nothing was sent; those of the stream, where
            /// a part may have been sent.
            fn send(&self, text: String) -> impl Future<Output = Result<(), Unsent<String, io::Error>>> {
                async move {
                    let sent = match self.options.encode(&text) {
                        Ok(bytes) => self.stream.send(bytes).await.map(drop).map_err(io::Error::from),
                        Err(error) => Err(error),
                    };
                    sent.map_err(|error| Unsent::new(text, error))
                }
            }
        }

        impl<S: $bound> ObjectSendStream for $name<S> {}
    };
}

fn guard(_: TextOptions) -> ResourceGuard {
    ResourceGuard::new("receiving from")
}

text_stream! {
    /// Receives text from a byte stream.
    ///
    /// # Examples
    /// ```
    /// use proactor::net::{TcpListener, TcpStream};
    /// use proactor::stream::{TextReceiveStream, UnreliableObjectReceiveStream};
    /// # fn main() -> std::io::Result<()> {
    /// proactor::run(async {
    ///     let listener = TcpListener::bind("127.0.0.1:0").await?;
    ///     let client = TcpStream::connect(listener.local_addr()?).await?;
    ///     let text = TextReceiveStream::new(listener.accept().await?);
    ///     client.send("smörgåsbord").await?;
    ///     client.close().await?;
    ///     let mut all = String::new();
    ///     while let Some(part) = text.receive().await? {
    ///         all += &part;
    ///     }
    ///     assert_eq!(all, "smörgåsbord");
    ///     Ok::<_, std::io::Error>(())
    /// })
    /// # }
    /// ```
    TextReceiveStream { decoding: Decoding = Decoding::new, guard: ResourceGuard = guard }
}

text_stream! {
    /// Sends text over a byte stream.
    TextSendStream { options: TextOptions = std::convert::identity }
}

text_stream! {
    /// Sends and receives text over a byte stream.
    TextStream {
        decoding: Decoding = Decoding::new,
        guard: ResourceGuard = guard,
        options: TextOptions = std::convert::identity
    }
}

receives_text!(TextReceiveStream, ByteReceiveStream);
receives_text!(TextStream, ByteStream);
sends_text!(TextSendStream, ByteSendStream);
sends_text!(TextStream, ByteStream);

impl<S: ByteStream> ObjectStream for TextStream<S> {
    fn send_eof(&self) -> impl Future<Output = io::Result<()>> {
        self.stream.send_eof()
    }
}
