//! Coming from asyncio and AnyIO: what is called what here.
//!
//! Where a name is the same, searching these docs for the Python name finds it too. Rows that are missing are not built
//! yet.
//!
//! # Errors
//! | asyncio, AnyIO | here |
//! |---|---|
//! | `TimeoutError` | [`TimedOut`](crate::TimedOut) |
//! | `CancelledError`, `get_cancelled_exc_class()` | [`Cancelled`](crate::Cancelled); any error that may be one: [`MayBeCancelled`](crate::MayBeCancelled) |
//! | `InvalidStateError` | [`InvalidState`](crate::future::InvalidState), [`FutureError::NotDone`](crate::future::FutureError::NotDone) |
//! | `QueueEmpty`, `QueueFull`, `WouldBlock` | [`WouldBlock`](crate::WouldBlock) |
//! | `EndOfStream`, `ClosedResourceError`, `BrokenResourceError`, `BusyResourceError` | [`EndOfStream`](crate::EndOfStream), [`Closed`](crate::Closed), [`Broken`](crate::Broken), [`Busy`](crate::Busy) |
//! | `IncompleteRead`, `DelimiterNotFound` | [`IncompleteRead`](crate::IncompleteRead), which has what there was; [`DelimiterNotFound`](crate::DelimiterNotFound) |
//! | `TypedAttributeLookupError` | [`TypedAttributeLookupError`](crate::TypedAttributeLookupError) |
//! | `SendfileNotAvailableError` | [`SendfileNotAvailable`](crate::SendfileNotAvailable) |
//! | `ExceptionGroup` | [`ErrorGroup`](crate::cancel::ErrorGroup) |
//!
//! # The loop
//! | asyncio, AnyIO | here |
//! |---|---|
//! | `run`, also with `debug` or a `backend` | [`run`](crate::run); [`Builder::run`](crate::Builder::run) with [`Builder::debug`](crate::Builder::debug), [`Builder::driver`](crate::Builder::driver) and the other options |
//! | `get_all_backends` | [`DriverKind::ALL`](crate::DriverKind::ALL); [`DriverKind::can_run`](crate::DriverKind::can_run) says why one cannot |
//! | `run_until_complete`, `run_forever`, `stop`, `close`, `is_running`, `is_closed` | the methods of [`EventLoop`](crate::EventLoop) |
//! | `call_soon`, `call_later`, `call_at`, `time`, `Handle`, `TimerHandle` | [`event_loop`](crate::event_loop) |
//! | `call_soon_threadsafe` | [`LoopHandle::call_soon_threadsafe`](crate::LoopHandle::call_soon_threadsafe) |
//! | `get_running_loop`, `get_event_loop`, `set_event_loop` | [`EventLoop::running`](crate::EventLoop::running), [`EventLoop::current`](crate::EventLoop::current) (which makes none by itself), [`EventLoop::set_current`](crate::EventLoop::set_current); for other threads [`current`](crate::current) |
//! | `new_event_loop`, `get_event_loop_policy`, `set_event_loop_policy` | [`EventLoop::new`](crate::EventLoop::new), [`EventLoop::policy`](crate::EventLoop::policy), [`EventLoop::set_policy`](crate::EventLoop::set_policy): a policy is a [`Builder`](crate::Builder) |
//! | `create_task`, `ensure_future` | [`spawn`](crate::spawn), [`EventLoop::spawn`](crate::EventLoop::spawn) |
//! | `create_future` | [`Future::new`](crate::future::Future::new), [`EventLoop::create_future`](crate::EventLoop::create_future) |
//! | `set_exception_handler`, `get_exception_handler`, `default_exception_handler`, `call_exception_handler`, the context | [`EventLoop::set_exception_handler`](crate::EventLoop::set_exception_handler) and its neighbours, [`ExceptionContext`](crate::event_loop::ExceptionContext) |
//! | a task exception that was never retrieved | the same handler; for errors of your own types [`Task::detach`](crate::Task::detach) |
//! | `set_debug`, `get_debug`, `PYTHONASYNCIODEBUG`, `slow_callback_duration` | [`EventLoop::set_debug`](crate::EventLoop::set_debug), `PROACTOR_DEBUG`, [`EventLoop::set_slow_callback_duration`](crate::EventLoop::set_slow_callback_duration). A loop that is used by another thread, or a future that nobody awaits, the compiler finds |
//! | `run_in_executor`, `set_default_executor`, `shutdown_default_executor` | [`run_in_executor`](crate::event_loop::run_in_executor), [`set_default_executor`](crate::event_loop::set_default_executor), [`shutdown_default_executor`](crate::event_loop::shutdown_default_executor) |
//! | `add_reader`, `remove_reader`, `add_writer`, `remove_writer` | [`compat::add_reader`](crate::compat::add_reader) and its neighbours, also as methods of [`EventLoop`](crate::EventLoop) |
//! | `wait_socket_readable`, `wait_socket_writable`, `notify_closing` | [`compat::wait_readable`](crate::compat::wait_readable), [`compat::wait_writable`](crate::compat::wait_writable), [`compat::notify_closing`](crate::compat::notify_closing) |
//! | a stream for libraries that are written for other runtimes, and back | `compat::ForeignIo` and `compat::ForeignStream`, with the features `futures-io` (the traits of `futures`) and `tokio-io` (those of tokio) |
//! | `add_signal_handler`, `remove_signal_handler` | [`add_signal_handler`](crate::event_loop::add_signal_handler), [`remove_signal_handler`](crate::event_loop::remove_signal_handler): others who listen for the signal are left alone, and what it does by default does not come back |
//! | `open_signal_receiver` | [`open_signal_receiver`](crate::signal::open_signal_receiver), an [`ObjectReceiveStream`](crate::stream::ObjectReceiveStream) |
//! | a loop inside of another one | [`EventLoop::run_ready`](crate::EventLoop::run_ready), [`EventLoop::descriptor`](crate::EventLoop::descriptor) |
//! | `set_task_factory`, `get_task_factory` | [`EventLoop::set_task_factory`](crate::EventLoop::set_task_factory): it sees each spawn; what a task is, its type says |
//! | `shutdown_asyncgens` | by design: Rust has no asynchronous generators whose clean-up the loop would have to run |
//!
//! # Futures and tasks
//! | asyncio, AnyIO | here |
//! |---|---|
//! | `Future` | [`future::Future`](crate::future::Future) |
//! | `Task.cancel`, `uncancel`, `cancelling`, `cancelled`, `get_name`, `set_name` | [`Task::cancel`](crate::Task::cancel), [`Task::uncancel`](crate::Task::uncancel), [`Task::cancel_requests`](crate::Task::cancel_requests), [`Task::cancelled`](crate::Task::cancelled), [`Task::name`](crate::Task::name), [`Task::set_name`](crate::Task::set_name) |
//! | `Task.get_coro` | by design: the future is the task's own, nobody else may poll it |
//! | `Task.get_stack`, `print_stack` | [`task_tree`](crate::task_tree): where each task was spawned and what it waits for |
//! | `current_task`, `all_tasks`, `get_current_task`, `get_running_tasks` | [`current_task`](crate::current_task), [`all_tasks`](crate::all_tasks) |
//! | `gather`, with `return_exceptions` | [`gather`](crate::future::gather), [`gather_results`](crate::future::gather_results) |
//! | `wait`, `as_completed` | [`wait`](crate::future::wait), [`as_completed`](crate::future::as_completed) |
//! | `wait_for` | [`fail_after`](crate::cancel::fail_after), which cancels; [`timeout`](crate::timeout), which drops |
//! | `shield` | awaiting a [`Task`](crate::Task): a cancel of the wait leaves it alone; [`shielded`](crate::cancel::shielded) for a part of a body |
//! | `sleep(delay, result)` | `sleep(delay).await.map(\|()\| result)`, see [`sleep`](crate::sleep) |
//! | `iscoroutine`, `iscoroutinefunction`, `isfuture`, `coroutine` | by design: the type system knows |
//!
//! A difference to know: in asyncio a cancel is delivered once, and code that caught it goes on as if nothing had been.
//! Here it is level-triggered, as in AnyIO: every wait answers [`Cancelled`](crate::Cancelled) until the scope is left, or
//! until [`Task::uncancel`](crate::Task::uncancel) takes the request back. Clean-up that waits goes into
//! [`shielded`](crate::cancel::shielded). And cancelling a task does not cancel a
//! [`future::Future`](crate::future::Future) that it waits for.
//!
//! # Structured concurrency
//! | AnyIO | here |
//! |---|---|
//! | `CancelScope` | [`CancelScope`](crate::cancel::CancelScope) |
//! | `move_on_after`, `fail_after`, `current_effective_deadline` | [`move_on_after`](crate::cancel::move_on_after), [`fail_after`](crate::cancel::fail_after), [`current_effective_deadline`](crate::cancel::current_effective_deadline) |
//! | `create_task_group`, `start_soon`, `start`, `TaskStatus.started` | [`task_group`](crate::cancel::task_group), [`TaskGroup::start_soon`](crate::cancel::TaskGroup::start_soon), [`TaskGroup::start`](crate::cancel::TaskGroup::start), [`TaskStatus::started`](crate::cancel::TaskStatus::started) |
//! | `checkpoint`, `checkpoint_if_cancelled`, `cancel_shielded_checkpoint` | [`checkpoint`](crate::cancel::checkpoint), [`checkpoint_if_cancelled`](crate::cancel::checkpoint_if_cancelled), [`yield_now`](crate::yield_now) |
//! | `sleep`, `sleep_until`, `sleep_forever` | [`sleep`](crate::sleep), [`sleep_until`](crate::sleep_until), [`sleep_forever`](crate::cancel::sleep_forever) |
//! | `RunVar`, context variables | [`RunVar`](crate::context::RunVar), [`ContextVar`](crate::context::ContextVar) |
//!
//! # Synchronisation
//! | asyncio, AnyIO | here |
//! |---|---|
//! | `Event`, `Lock`, `Condition` | [`Event`](crate::sync::Event), [`Lock`](crate::sync::Lock), [`Condition`](crate::sync::Condition) |
//! | `Semaphore`, `BoundedSemaphore`, `CapacityLimiter` | [`Semaphore`](crate::sync::Semaphore), [`CapacityLimiter`](crate::sync::CapacityLimiter) |
//! | `ResourceGuard` | [`ResourceGuard`](crate::sync::ResourceGuard) |
//! | `Queue`, `LifoQueue`, `PriorityQueue` | [`Queue`](crate::sync::Queue) |
//! | `create_memory_object_stream` | [`memory_object_stream`](crate::stream::memory_object_stream) |
//!
//! # Threads and worker processes
//! | asyncio, AnyIO | here |
//! |---|---|
//! | `to_thread`, `to_thread.run_sync` with `abandon_on_cancel`, `limiter` | [`to_thread::run_sync`](crate::thread::to_thread::run_sync), [`abandon_on_cancel`](crate::thread::to_thread::RunSync::abandon_on_cancel), [`limiter`](crate::thread::to_thread::RunSync::limiter) |
//! | `current_default_thread_limiter` | [`current_default_thread_limiter`](crate::thread::to_thread::current_default_thread_limiter) |
//! | `from_thread.run`, `run_sync`, `check_cancelled` | [`from_thread::run`](crate::thread::from_thread::run), [`from_thread::run_sync`](crate::thread::from_thread::run_sync), [`check_cancelled`](crate::thread::from_thread::check_cancelled) |
//! | `start_blocking_portal`, `BlockingPortal` | [`start_blocking_portal`](crate::thread::start_blocking_portal), [`BlockingPortal`](crate::thread::BlockingPortal) |
//! | `run_coroutine_threadsafe`, `wrap_future` | [`LoopHandle::spawn`](crate::LoopHandle::spawn); a [`RemoteTask`](crate::RemoteTask) is waited for in a thread and awaited in a loop |
//! | `ThreadPoolExecutor` | [`Executor`](crate::thread::Executor) |
//! | `to_process.run_sync` with `cancellable`, `limiter` | [`to_process::run_sync`](crate::process::to_process::run_sync): the functions are registered in `main`, their arguments and results are bytes |
//! | `current_default_process_limiter` | [`current_default_process_limiter`](crate::process::to_process::current_default_process_limiter) |
//!
//! # Names and connecting
//! | asyncio, AnyIO | here |
//! |---|---|
//! | `getaddrinfo`, `getnameinfo` | [`getaddrinfo`](crate::net::getaddrinfo), [`getnameinfo`](crate::net::getnameinfo); for addresses to connect to, [`lookup_host`](crate::net::lookup_host) |
//! | `connect_tcp` with `happy_eyeballs_delay`, `local_host` | [`connect_tcp`](crate::net::connect_tcp) |
//! | `create_tcp_listener` | [`TcpListener::bind`](crate::net::TcpListener::bind), [`TcpListener::builder`](crate::net::TcpListener::builder) |
//!
//! # Datagrams, UNIX sockets, pipes
//! | asyncio, AnyIO | here |
//! |---|---|
//! | `create_udp_socket`, `create_connected_udp_socket` | [`UdpSocket::bind`](crate::net::UdpSocket::bind), [`UdpSocket::connect`](crate::net::UdpSocket::connect), [`UdpSocket::builder`](crate::net::UdpSocket::builder); a socket is an [`UnreliableObjectStream`](crate::stream::UnreliableObjectStream) of bytes and addresses |
//! | `create_unix_datagram_socket`, `create_connected_unix_datagram_socket` | [`UnixDatagram`](crate::net::UnixDatagram) |
//! | `connect_unix`, `create_unix_listener`, with `mode`, `backlog` | [`UnixStream::connect`](crate::net::UnixStream::connect), [`UnixListener::builder`](crate::net::UnixListener::builder) |
//! | `UNIXSocketStream.send_fds`, `receive_fds` | [`UnixStream::send_fds`](crate::net::UnixStream::send_fds), [`UnixStream::receive_fds`](crate::net::UnixStream::receive_fds), and [`expect_fds`](crate::net::UnixStream::expect_fds) before the first bytes |
//! | `connect_read_pipe`, `connect_write_pipe` | [`PipeReader::from_fd`](crate::net::PipeReader::from_fd), [`PipeWriter::from_fd`](crate::net::PipeWriter::from_fd); [`pipe`](crate::net::pipe), [`stdin`](crate::net::stdin), [`stdout`](crate::net::stdout), [`stderr`](crate::net::stderr) |
//! | `sock_accept`, `sock_connect`, `sock_recv`, `sock_recv_into`, `sock_recvfrom`, `sock_sendall`, `sock_sendto` | the methods of [`Socket`](crate::net::Socket) |
//! | `SocketAttribute`: `local_address`, `peername`, `raw_socket` … | `local_addr`, `peer_addr`, [`with_socket`](crate::net::Stream::with_socket) of each socket |
//!
//! # Sending files
//! | asyncio | here |
//! |---|---|
//! | `loop.sendfile`, `loop.sock_sendfile`, with `offset`, `count`, `fallback` | [`send_file`](crate::net::Stream::send_file), [`offset`](crate::net::SendFile::offset), [`count`](crate::net::SendFile::count), [`fallback`](crate::net::SendFile::fallback) |
//!
//! # Transports, protocols, servers
//! | asyncio | here |
//! |---|---|
//! | `Protocol`, `BufferedProtocol` | [`Protocol`](crate::transport::Protocol), [`BufferedProtocol`](crate::transport::BufferedProtocol): `get_buffer` hands over an owned buffer when the transport begins to wait, `buffer_updated` gives it back |
//! | `Transport` | [`Transport`](crate::transport::Transport); bytes that the kernel is sending count as buffered, as with asyncio's own proactor loop |
//! | `get_extra_info` | [`sockname`](crate::transport::Transport::sockname), [`peername`](crate::transport::Transport::peername), [`with_socket`](crate::transport::Transport::with_socket); the rest are [attributes](crate::stream::TypedAttributeProvider::extra) of the transport: [`SocketAttribute`](crate::stream::SocketAttribute), and `TlsAttribute` with TLS |
//! | `set_write_buffer_limits` | [`set_write_buffer_limits`](crate::transport::Transport::set_write_buffer_limits), [`WriteBufferLimits`](crate::transport::WriteBufferLimits) |
//! | `loop.sendfile(transport, file, …)` | [`Transport::sendfile`](crate::transport::Transport::sendfile) |
//! | `create_connection`, `create_unix_connection` | [`create_connection`](crate::transport::create_connection), [`create_unix_connection`](crate::transport::create_unix_connection) |
//! | `create_connection(sock=…)`, `connect_accepted_socket` | [`connect_accepted_socket`](crate::transport::connect_accepted_socket) |
//! | `create_server`, `create_unix_server` | [`create_server`](crate::transport::create_server), [`create_unix_server`](crate::transport::create_unix_server) |
//! | `Server` | [`Server`](crate::transport::Server) |
//! | `DatagramProtocol`, `DatagramTransport` | [`DatagramProtocol`](crate::transport::DatagramProtocol), [`DatagramTransport`](crate::transport::DatagramTransport) |
//! | `create_datagram_endpoint` | [`create_datagram_endpoint`](crate::transport::create_datagram_endpoint), whose future has the arguments as methods |
//! | `connect_read_pipe`, `connect_write_pipe` | [`connect_read_pipe`](crate::transport::connect_read_pipe), [`connect_write_pipe`](crate::transport::connect_write_pipe) |
//! | a transport over any stream (none in asyncio) | [`connect_stream`](crate::transport::connect_stream); the other way round: [`TransportStream`](crate::transport::TransportStream), [`Transport::into_stream`](crate::transport::Transport::into_stream) |
//! | `context["transport"]` of the exception handler | [`ExceptionContext::about`](crate::event_loop::ExceptionContext::about) |
//!
//! An exception in a callback is a panic here: in `data_received` and `eof_received` it ends the connection (of pipes too).
//!
//! # Stream readers and writers
//! | asyncio | here |
//! |---|---|
//! | `StreamReader` | [`StreamReader`](crate::transport::StreamReader); `read(-1)` is [`read_to_end`](crate::transport::StreamReader::read_to_end) |
//! | `StreamWriter` | [`StreamWriter`](crate::transport::StreamWriter), which closes the connection when it is dropped |
//! | `StreamReaderProtocol` | [`StreamReaderProtocol`](crate::transport::StreamReaderProtocol) |
//! | `open_connection`, `open_unix_connection` | [`open_connection`](crate::transport::open_connection), [`open_unix_connection`](crate::transport::open_unix_connection), [`OpenConnection::limit`](crate::transport::OpenConnection::limit) for a limit; [`open_stream`](crate::transport::open_stream) of a stream that is connected |
//! | `start_server`, `start_unix_server` | [`start_server`](crate::transport::start_server), [`start_unix_server`](crate::transport::start_unix_server); with a limit: [`StreamReaderProtocol::serving`](crate::transport::StreamReaderProtocol::serving) |
//! | `IncompleteReadError`, `LimitOverrunError` | [`IncompleteRead`](crate::IncompleteRead), [`LimitOverrun`](crate::LimitOverrun) |
//!
//! # Streams
//! | AnyIO | here |
//! |---|---|
//! | `ByteReceiveStream`, `ByteSendStream`, `ByteStream` | [`ByteReceiveStream`](crate::stream::ByteReceiveStream), [`ByteSendStream`](crate::stream::ByteSendStream), [`ByteStream`](crate::stream::ByteStream); the end of a stream is `None` |
//! | `ObjectReceiveStream`, `ObjectSendStream`, `ObjectStream` | [`ObjectReceiveStream`](crate::stream::ObjectReceiveStream), [`ObjectSendStream`](crate::stream::ObjectSendStream), [`ObjectStream`](crate::stream::ObjectStream) |
//! | `UnreliableObjectReceiveStream` and its kin | [`UnreliableObjectReceiveStream`](crate::stream::UnreliableObjectReceiveStream), [`UnreliableObjectSendStream`](crate::stream::UnreliableObjectSendStream), [`UnreliableObjectStream`](crate::stream::UnreliableObjectStream) |
//! | `AnyByteStream` and its kin | the trait objects, such as [`DynByteStream`](crate::stream::DynByteStream) |
//! | `Listener.serve(handler, task_group)` | [`Listener::serve_in`](crate::stream::Listener::serve_in); without a group: [`net::Listener::serve`](crate::net::Listener::serve) |
//! | `AsyncResource.aclose`, `aclose_forcefully` | [`AsyncResource::aclose`](crate::stream::AsyncResource::aclose), [`aclose_forcefully`](crate::stream::aclose_forcefully) |
//! | `async with` of a resource | by design: dropping closes too; `aclose` where the peer is to be told |
//! | `TypedAttributeSet`, `TypedAttributeProvider`, `extra`, `extra_attributes` | [`Attribute`](crate::stream::Attribute), [`TypedAttributeProvider`](crate::stream::TypedAttributeProvider); a default is `unwrap_or` |
//! | `SocketAttribute` | [`SocketAttribute`](crate::stream::SocketAttribute) |
//! | `BufferedByteReceiveStream`, `BufferedByteStream` | [`BufferedByteReceiveStream`](crate::stream::BufferedByteReceiveStream) |
//! | `TextReceiveStream`, `TextSendStream`, `TextStream` | [`TextReceiveStream`](crate::stream::TextReceiveStream), [`TextSendStream`](crate::stream::TextSendStream), [`TextStream`](crate::stream::TextStream); a character that the end cuts off is an error here, and silently lost there |
//! | `FileReadStream`, `FileWriteStream`, `FileStreamAttribute` | [`FileReadStream`](crate::fs::FileReadStream), [`FileWriteStream`](crate::fs::FileWriteStream), [`FileStreamAttribute`](crate::fs::FileStreamAttribute); `append=True` is [`append_to`](crate::fs::FileWriteStream::append_to) |
//! | `StapledByteStream`, `StapledObjectStream`, `MultiListener` | [`StapledByteStream`](crate::stream::StapledByteStream), [`StapledObjectStream`](crate::stream::StapledObjectStream), [`MultiListener`](crate::stream::MultiListener) |
#![cfg_attr(
    feature = "tls",
    doc = r#"
# TLS (feature `tls`)
| asyncio, AnyIO | here |
|---|---|
| `SSLContext`, `create_default_context`, `load_cert_chain` | [`client_config`](crate::stream::tls::client_config), [`server_config`](crate::stream::tls::server_config), [`load_cert_chain`](crate::stream::tls::load_cert_chain); what they leave out, `rustls` has |
| `TLSStream.wrap`, `unwrap` | [`TlsStream::client`](crate::stream::tls::TlsStream::client), [`TlsStream::server`](crate::stream::tls::TlsStream::server), [`TlsStream::unwrap`](crate::stream::tls::TlsStream::unwrap) |
| `standard_compatible`, `ssl_handshake_timeout` | [`Wrap::standard_compatible`](crate::stream::tls::Wrap::standard_compatible), [`Wrap::handshake_timeout`](crate::stream::tls::Wrap::handshake_timeout); a connection that is cut off is [`Truncated`](crate::stream::tls::Truncated) |
| `connect_tcp(tls=True)` | [`connect_tcp`](crate::net::connect_tcp), and [`TlsStream::client`](crate::stream::tls::TlsStream::client) around it |
| `ssl`, `server_hostname`, `ssl_handshake_timeout`, `ssl_shutdown_timeout` of `create_connection`, `create_server`, `open_connection`, `start_server` and the UNIX ones | [`Tls`](crate::transport::Tls), for [`CreateConnection::tls`](crate::transport::CreateConnection::tls), [`CreateServer::tls`](crate::transport::CreateServer::tls), [`OpenConnection::tls`](crate::transport::OpenConnection::tls), [`connect_accepted_tls`](crate::transport::connect_accepted_tls) |
| `loop.start_tls`, `StreamWriter.start_tls` | [`Transport::start_tls`](crate::transport::Transport::start_tls), [`StreamWriter::start_tls`](crate::transport::StreamWriter::start_tls): the transport stays the same one. An end without a goodbye is an error here, and no error in asyncio |
| `OP_ENABLE_KTLS` | [`Wrap::kernel_send`](crate::stream::tls::Wrap::kernel_send), [`TlsListener::kernel_send`](crate::stream::tls::TlsListener::kernel_send): for sending, where the kernel has its module; [`TlsAttribute::KERNEL_SEND`](crate::stream::tls::TlsAttribute::KERNEL_SEND) tells |
| `TLSListener`, `handle_handshake_error` | [`TlsListener`](crate::stream::tls::TlsListener), [`on_handshake_error`](crate::stream::tls::TlsListener::on_handshake_error) |
| `TLSAttribute` | [`TlsAttribute`](crate::stream::tls::TlsAttribute); without `shared_ciphers` and `channel_binding_tls_unique`, which this TLS does not tell |
"#
)]
