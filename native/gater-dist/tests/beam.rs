//! Tests the layer for programs against a real BEAM.
//!
//! Without `erl` and `epmd` the tests are skipped, which they report on standard error. The variable
//! `GATER_OTP_ROOT` names the root of a system whose `erl` is used instead, by `chroot`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use gater_dist::process::{
    CallError, Caller, Destination, GenServer, Next, Node, NodeEvent, Process, Received, SendError,
    Term,
};
use gater_dist::{Settings, term};

const COOKIE: &str = "library";
const WITHIN: Duration = Duration::from_secs(20);

/// A BEAM with an EPMD of its own, which ends with it.
struct Beam {
    epmd: Child,
    port: u16,
    erl: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    name: String,
}

/// Reads terms as lines of text and evaluates each; the value is printed on one line.
const LOOP: &str = r#"
    Loop = fun(Loop, Bound) ->
        case io:get_line("") of
            eof -> halt();
            Line ->
                {ok, Tokens, _} = erl_scan:string(Line),
                {ok, Forms} = erl_parse:parse_exprs(Tokens),
                {Value, Next} = try {value, V, B} = erl_eval:exprs(Forms, Bound), {V, B}
                    catch Class:Reason -> {{Class, Reason}, Bound} end,
                io:format("~0p~n", [Value]),
                Loop(Loop, Next)
        end
    end,
    spawn(fun() -> io:format("ready~n"), Loop(Loop, []) end).
"#;

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stderr(Stdio::null()).stdin(Stdio::null());
    command
}

/// Returns the command that starts a BEAM.
fn erl() -> Command {
    match std::env::var_os("GATER_OTP_ROOT") {
        Some(root) => {
            let mut command = quiet("chroot");
            command.arg(root).arg("erl");
            command
        }
        None => quiet("erl"),
    }
}

impl Beam {
    /// Starts a BEAM. Returns `None` where there is no Erlang.
    fn start() -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let epmd = quiet("epmd").args(["-port", &port.to_string()]).spawn();
        let Ok(epmd) = epmd else {
            eprintln!("SKIPPED: there is no epmd, so that nothing was tested against a BEAM");
            return None;
        };
        let name = format!("beam{port}@127.0.0.1");
        let erl = erl()
            .args(["-noshell", "-name", &name, "-setcookie", COOKIE, "-eval", LOOP])
            .env("ERL_EPMD_PORT", port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut erl) = erl else {
            eprintln!("SKIPPED: there is no erl, so that nothing was tested against a BEAM");
            return None;
        };
        let input = erl.stdin.take();
        let output = BufReader::new(erl.stdout.take().unwrap());
        let mut beam = Self { epmd, port, erl, input, output, name };
        assert_eq!(beam.line(), "ready");
        Some(beam)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Returns the value of an expression.
    fn eval(&mut self, expression: &str) -> String {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{expression}").unwrap();
        input.flush().unwrap();
        self.line()
    }

    fn settings(&self, name: &str) -> Settings {
        let mut settings = Settings::new(format!("{name}@127.0.0.1"), Vec::from(COOKIE).into());
        settings.epmd = SocketAddr::from(([127, 0, 0, 1], self.port));
        settings.start_epmd = false;
        settings
    }

    async fn node(&self, name: &str) -> Node {
        Node::start(self.settings(name)).await.unwrap()
    }

    fn at<'a>(&'a self, name: &'a str) -> (&'a str, &'a str) {
        (name, &self.name)
    }

    fn stop(&mut self) {
        self.input = None;
        self.erl.wait().unwrap();
    }

    fn example(&self, name: &str, arguments: &[&str]) -> Command {
        let built = Command::new(env!("CARGO"))
            .args(["build", "-q", "--locked", "-p", "gater-dist", "--example", name])
            .status()
            .unwrap();
        assert!(built.success());
        let tests = std::env::current_exe().unwrap();
        let target = tests.parent().and_then(|deps| deps.parent()).unwrap();
        let mut command = Command::new(target.join("examples").join(name));
        command.args(arguments).env("ERL_EPMD_PORT", self.port.to_string());
        command
    }
}

impl Drop for Beam {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.erl.kill();
        let _ = self.erl.wait();
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}

async fn receive(process: &mut Process) -> Received {
    tokio::time::timeout(WITHIN, process.receive()).await.unwrap().unwrap()
}

struct Adder(i64);

impl GenServer for Adder {
    async fn handle_call(&mut self, me: &Process, request: Term, caller: Caller) -> Next {
        if request == term!(crash) {
            panic!("as asked");
        }
        if request == term!(never) {
            return Next::Continue;
        }
        self.0 += request.as_integer().unwrap_or_default();
        caller.reply(&term!({(me.pid()), (self.0)})).unwrap();
        Next::Continue
    }

    async fn handle_cast(&mut self, _me: &Process, message: Term) -> Next {
        Next::Stop(message)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beam_calls_monitors_and_links_with_a_server_that_ends() {
    let Some(mut beam) = Beam::start() else { return };
    let node = beam.node("served").await;
    let server = node.serve(Some("adder"), Adder(1)).unwrap();
    beam.eval("process_flag(trap_exit, true).");
    let own = "{adder, 'served@127.0.0.1'}";
    assert_eq!(
        beam.eval(&format!("{{P, 3}} = gen_server:call({own}, 2), node(P).")),
        "'served@127.0.0.1'"
    );
    assert_eq!(beam.eval("element(2, gen_server:call(P, 4))."), "7");
    let by_name = beam.eval(&format!("M = erlang:monitor(process, {own}), N = erlang:monitor(process, P), link(P), gen_server:call(P, 0), is_reference(M)."));
    assert_eq!(by_name, "true");
    beam.eval("gen_server:cast(P, {over, 1}).");
    assert_eq!(server.ended().await, term!({over, 1}));
    for pattern in [
        "{'DOWN', M, process, {adder, _}, R1} -> R1",
        "{'DOWN', N, process, P, R2} -> R2",
        "{'EXIT', P, R3} -> R3",
    ] {
        assert_eq!(beam.eval(&format!("receive {pattern} after 20000 -> late end.")), "{over,1}");
    }
    assert_eq!(
        beam.eval("catch gen_server:call(P, 1)."),
        "{'EXIT',{noproc,{gen_server,call,[P,1]}}}".replace('P', &beam.eval("P."))
    );
    assert_eq!(
        beam.eval("link(P), receive {'EXIT', P, R4} -> R4 after 20000 -> late end."),
        "noproc"
    );
    // A panic ends the server, and the processes that monitor it are told.
    let panicking = node.serve(Some("adder"), Adder(0)).unwrap();
    let reason = beam.eval(&format!("catch gen_server:call({own}, crash)."));
    assert!(reason.starts_with("{'EXIT',{panic,"), "{reason}");
    assert_eq!(panicking.ended().await, term!(panic));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_an_answer_or_a_typed_error() {
    let Some(mut beam) = Beam::start() else { return };
    let node = beam.node("caller").await;
    let name = beam.name.clone();
    let answer = node.rpc(&name, ("lists", "reverse"), vec![term!([1, 2, 300])], WITHIN).await;
    assert_eq!(answer.unwrap(), term!([300, 2, 1]));
    let failed = node.rpc(&name, ("erlang", "error"), vec![term!(broken)], WITHIN).await;
    assert!(matches!(failed, Err(CallError::BadRpc(_))), "{failed:?}");
    assert_eq!(node.call(beam.at("nobody"), term!(hi), WITHIN).await, Err(CallError::NoProc));
    let gone = node.call(("x", "gone@127.0.0.1"), term!(hi), WITHIN).await;
    assert!(matches!(gone, Err(CallError::NoConnection(_))), "{gone:?}");

    // OTP's `net_kernel` answers to the pid of a caller, not to its alias.
    let asked = node.call(beam.at("net_kernel"), term!({is_auth, x}), WITHIN).await;
    assert_eq!(asked, Ok(term!(yes)));

    // An answer that is late is dropped.
    beam.eval("S = spawn(fun() -> receive {'$gen_call', F, _} -> receive go -> gen_server:reply(F, late) end, receive {'$gen_call', _, _} -> exit(died) end end end), register(slow, S).");
    let soon = Duration::from_millis(100);
    assert_eq!(node.call(beam.at("slow"), term!(a), soon).await, Err(CallError::Timeout(soon)));
    beam.eval("S ! go.");
    let died = node.call(beam.at("slow"), term!(b), WITHIN).await;
    assert_eq!(died, Err(CallError::Exit(term!(died))));

    // The process is called while the connection ends.
    beam.eval("register(deaf, spawn(fun() -> timer:sleep(infinity) end)).");
    let mut events = node.events();
    let calling = {
        let (node, name) = (node.clone(), name.clone());
        tokio::spawn(async move { node.call(("deaf", name.as_str()), term!(hi), WITHIN).await })
    };
    let arrived = "length(element(2, process_info(whereis(deaf), messages))).";
    while beam.eval(arrived) != "1" {
        tokio::task::yield_now().await;
    }
    beam.stop();
    let lost = calling.await.unwrap();
    assert!(matches!(lost, Err(CallError::NoConnection(_))), "{lost:?}");
    let event = tokio::time::timeout(WITHIN, events.next()).await.unwrap();
    assert!(matches!(event, Some(NodeEvent::Down(down, _)) if down.as_str() == name));
}

/// A message of a program of its own types.
#[cfg(feature = "serde")]
#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Placed { number: u64, items: Vec<String>, paid: Option<bool> },
    Cancelled,
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn values_of_a_program_pass_through_a_beam() {
    use gater_dist::convert::{from_term, to_term};

    let Some(beam) = Beam::start() else { return };
    let node = beam.node("values").await;
    let items = vec!["tea".to_owned(), "milch\u{e4}".to_owned()];
    let orders =
        vec![Order::Cancelled, Order::Placed { number: u64::MAX, items, paid: Some(true) }];
    let sent = to_term(&orders).unwrap();
    let reversed = node.rpc(&beam.name, ("lists", "reverse"), vec![sent], WITHIN).await.unwrap();
    let received: Vec<Order> = from_term(&reversed).unwrap();
    assert!(received.iter().rev().eq(&orders));
    // What the BEAM makes of it: the map of the second order, by its atoms.
    let placed = to_term(&orders[1]).unwrap();
    let fields = node.rpc(&beam.name, ("erlang", "element"), vec![term!(2), placed], WITHIN);
    let keys = node.rpc(&beam.name, ("maps", "keys"), vec![fields.await.unwrap()], WITHIN);
    let mut keys: Vec<String> = from_term(&keys.await.unwrap()).unwrap();
    keys.sort();
    assert_eq!(keys, ["items", "number", "paid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_only_dials_calls_and_is_called_back_and_epmd_does_not_know_it() {
    let Some(mut beam) = Beam::start() else { return };
    let node = Node::start_dial_only(beam.settings("asker")).unwrap();
    let name = beam.name.clone();
    let answer = node.rpc(&name, ("erlang", "nodes"), vec![term!(hidden)], WITHIN).await;
    assert_eq!(answer.unwrap(), term!([(node.name().clone())]));
    let mut process = node.spawn();
    node.send(beam.at("rex"), &term!(ignored)).await.unwrap();
    beam.eval("register(back, spawn(fun() -> receive {P} -> P ! hello end end)).");
    node.send(beam.at("back"), &term!({ (process.pid()) })).await.unwrap();
    assert!(
        matches!(receive(&mut process).await, Received::Message { body, .. } if body == term!(hello))
    );
    assert_eq!(beam.eval("erl_epmd:names() =:= error orelse [N || {N = \"asker\", _} <- element(2, erl_epmd:names())]."), "[]");
    node.shutdown(WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn monitors_and_links_tell_of_an_end_and_of_a_lost_connection() {
    let Some(mut beam) = Beam::start() else { return };
    let node = beam.node("watcher").await;
    let mut process = node.spawn();
    process.register("watcher").unwrap();
    beam.eval("W = spawn(fun() -> receive R -> exit(R) end end), register(w, W), {watcher, 'watcher@127.0.0.1'} ! W.");
    let Received::Message { from: Some(_), body: Term::Pid(pid) } = receive(&mut process).await
    else {
        panic!("no pid with a sender")
    };
    let by_name = process.monitor(beam.at("w")).await.unwrap();
    let by_pid = process.monitor(&pid).await.unwrap();
    let given_up = process.monitor(&pid).await.unwrap();
    process.demonitor(&given_up);
    process.link(&pid).await;
    process.send(&pid, &term!({done, 1})).await.unwrap();
    let mut ends = Vec::new();
    for _ in 0..3 {
        match receive(&mut process).await {
            Received::Down { monitor, reason, .. } => {
                assert_ne!(monitor, given_up);
                assert!(monitor == by_name || monitor == by_pid);
                ends.push(reason);
            }
            Received::Exit { from, reason } => {
                assert_eq!(from, pid);
                ends.push(reason);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ends, vec![term!({done, 1}); 3]);
    process.monitor(beam.at("w")).await.unwrap();
    let down = receive(&mut process).await;
    assert!(matches!(&down, Received::Down { reason, .. } if *reason == term!(noproc)), "{down:?}");

    process.monitor(beam.at("init")).await.unwrap();
    node.rpc(&beam.name, ("erlang", "node"), vec![], WITHIN).await.unwrap();
    beam.stop();
    let down = receive(&mut process).await;
    assert!(
        matches!(&down, Received::Down { reason, .. } if *reason == term!(noconnection)),
        "{down:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_signals_and_unlinking_reach_a_process() {
    let Some(mut beam) = Beam::start() else { return };
    let node = beam.node("linked").await;
    let mut process = node.spawn();
    process.register("linked").unwrap();
    beam.eval("register(me, self()), process_flag(trap_exit, true), gen_server:cast({linked, 'linked@127.0.0.1'}, self()).");
    let Received::Cast(Term::Pid(pid)) = receive(&mut process).await else { panic!("no cast") };
    process.send(&pid, &term!({pid, (process.pid())})).await.unwrap();
    beam.eval("receive {pid, P} -> exit(P, kill) end.");
    let exit = receive(&mut process).await;
    assert!(matches!(&exit, Received::Exit { reason, .. } if *reason == term!(kill)), "{exit:?}");
    beam.eval("link(P), unlink(P), link(P), unlink(P), P ! unlinked.");
    assert!(matches!(receive(&mut process).await, Received::Message { .. }));
    process.exit(&term!(over));
    node.rpc(&beam.name, ("erlang", "node"), vec![], WITHIN).await.unwrap();
    assert_eq!(beam.eval("receive {'EXIT', P, _} -> told after 0 -> nothing end."), "nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_break_a_connection_or_go_astray_is_refused() {
    let Some(mut beam) = Beam::start() else { return };
    let node = beam.node("careful").await;
    let mut events = node.events();
    let mut process = node.spawn();
    let long = "n".repeat(300);
    let bad = |error| matches!(error, Err(SendError::BadName(_)));
    assert!(bad(process.send(beam.at(&long), &term!(hi)).await));
    assert!(bad(process.send(("x", "no node"), &term!(hi)).await));
    assert!(bad(process.monitor(long.as_str()).await.map(drop)));
    assert!(process.register(&long).is_err());
    // This pid has the numbers of a local process, but belongs to another node.
    let mut elsewhere = process.pid().clone();
    elsewhere.node = gater_dist::process::Atom::new(&beam.name).unwrap();
    process.send(&elsewhere, &term!(astray)).await.unwrap();
    let mut settings = beam.settings("short");
    settings.max_message = 100;
    let short = Node::start(settings).await.unwrap();
    let sent = short.send(beam.at("init"), &Term::binary([0; 200])).await;
    assert_eq!(sent, Err(SendError::TooLong { bytes: 205, limit: 100 }));
    // The connection has survived all that.
    assert_eq!(events.try_next(), Some(NodeEvent::Up(elsewhere.node.clone())));
    assert_eq!(events.try_next(), None);
    assert_eq!(beam.eval("length(nodes(hidden))."), "1");
    process.send(process.pid(), &term!(here)).await.unwrap();
    let first = receive(&mut process).await;
    assert!(matches!(&first, Received::Message { body, .. } if *body == term!(here)), "{first:?}");
    beam.stop();
    assert!(matches!(
        process.send(beam.at("init"), &term!(hi)).await,
        Err(SendError::NoConnection(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_one_node_call_watch_and_link_with_each_other() {
    let Some(beam) = Beam::start() else { return };
    let node = beam.node("alone").await;
    let server = node.serve(Some("adder"), Adder(0)).unwrap();
    let answer = node.call("adder", term!(5), WITHIN).await.unwrap();
    assert_eq!(answer, term!({(server.pid()), 5}));
    assert_eq!(node.call("nobody", term!(5), WITHIN).await, Err(CallError::NoProc));
    let mut process = node.spawn();
    process.monitor(Destination::from("adder")).await.unwrap();
    process.link(server.pid()).await;
    let pid = server.pid().clone();
    let calling = node.call("adder", term!(never), WITHIN);
    let stopping = async { node.cast(&pid, &term!(stop)).await.unwrap() };
    let (called, ()) = tokio::join!(calling, stopping);
    assert_eq!(called, Err(CallError::Exit(term!(stop))));
    assert!(
        matches!(receive(&mut process).await, Received::Down { reason, .. } if reason == term!(stop))
    );
    assert!(
        matches!(receive(&mut process).await, Received::Exit { reason, .. } if reason == term!(stop))
    );
    assert!(node.whereis("adder").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_ends_with_its_last_handle() {
    let Some(mut beam) = Beam::start() else { return };
    let node = beam.node("brief").await;
    node.connect(&beam.name).await.unwrap();
    beam.eval("net_kernel:monitor_nodes(true, [{node_type, hidden}]), ok.");
    assert_eq!(beam.eval("nodes(hidden)."), "['brief@127.0.0.1']");
    let process = node.spawn();
    drop(node);
    assert_eq!(beam.eval("length(nodes(hidden))."), "1");
    drop(process);
    let down =
        beam.eval("receive {nodedown, 'brief@127.0.0.1', _} -> down after 20000 -> late end.");
    assert_eq!(down, "down");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_do_what_they_say() {
    let Some(mut beam) = Beam::start() else { return };
    let name = beam.name.clone();
    let said = |output: std::process::Output| String::from_utf8(output.stdout).unwrap();
    assert_eq!(said(beam.example("ping", &[&name, COOKIE]).output().unwrap()), "pong\n");
    let pang = beam.example("ping", &["gone@127.0.0.1", COOKIE]).output().unwrap();
    assert!(said(pang).starts_with("pang: no connection"));
    let called = said(beam.example("call", &[&name, COOKIE]).output().unwrap());
    let expected = format!(
        "rpc: [300,2,1]\ngen_server: '{name}'\nslow: no answer within 100ms\nnobody: noproc\n"
    );
    assert_eq!(called, expected);

    let mut echo = beam.example("echo_server", &["echoing@127.0.0.1", COOKIE]);
    let mut echo = echo.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(echo.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let call = "gen_server:call({echo, 'echoing@127.0.0.1'}, #{a => [1, \"text\", 1.5]}).";
    assert_eq!(beam.eval(call), "#{a => [1,\"text\",1.5]}");
    beam.eval("gen_server:cast({echo, 'echoing@127.0.0.1'}, stop).");
    assert_eq!(lines.next().unwrap().unwrap(), "ended: stopped");
    assert!(echo.wait().unwrap().success());

    // The channel is lost and returns. One subscriber may call it twice: once without an answer,
    // just before the channel is registered again.
    let serve = "Answer = fun(Again) -> receive \
            {'$gen_call', F, {subscribe, T, P}} -> \
                gen_server:reply(F, ok), P ! {channel_message, ch, T, hello}, Again(Again); \
            stop -> ok end end, \
        Serve = fun() -> register(ch, self()), Answer(Answer) end, spawn(Serve).";
    beam.eval(serve);
    let mut subscribe = beam.example("subscribe", &[&name, COOKIE, "ch", "orders"]);
    let mut subscribe = subscribe.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(subscribe.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        assert_eq!(lines.next().unwrap().unwrap(), "subscribed: ok");
        assert_eq!(lines.next().unwrap().unwrap(), "{channel_message,ch,<<\"orders\">>,hello}");
        beam.eval(
            "erlang:monitor(process, ch), ch ! stop, receive {'DOWN', _, process, _, _} -> ok end.",
        );
        beam.eval("spawn(Serve).");
    }
    subscribe.kill().unwrap();
    subscribe.wait().unwrap();
}
