%% @doc What the benchmarks of a gateway run on: the two gateways, each a program of its own,
%% and BEAM nodes to publish from and to subscribe on.
-module(bench_rig).

-export([with/2, with/3, both/3, call/5, cpu_seconds/1, resident_bytes/1, secret/0]).
%% For rigs of another shape.
-export([scratch/1, peer/3, name/1, beam_arguments/1, cookie_file/1, launch/4, await_ready/1, kill/1]).
-export_type([rig/0, gateway/0, scratch/0]).

-type gateway() :: #{node := node(), os_pid := integer(), port := port(), log := string()}.
-type rig() :: #{
    publisher := pid(),
    subscriber := pid(),
    %% A third node, whose messages do not share a connection with the publishers'.
    alarm := pid(),
    ours := gateway(),
    theirs := gateway(),
    %% Where it could be compiled.
    cnode => gateway(),
    %% A node that has the shim, not started, where it was asked for.
    shim => pid()
}.

%% A folder and a cookie; what is kept is taken down with them.
-type scratch() :: #{
    dir := file:filename(),
    cookie := string(),
    keep := fun((pid() | gateway()) -> pid() | gateway())
}.

-define(CNODE, "target/bench/cnode_gateway").
-define(START_MS, 20000).
-define(STOP_MS, 10000).

%% @doc Runs `Fun' on a fresh rig and takes it down again, whatever happens.
-spec with(bench:options(), fun((rig()) -> Result)) -> Result.
with(Options, Fun) -> with(Options, [], Fun).

%% @doc The same with more nodes.
-spec with(bench:options(), [shim], fun((rig()) -> Result)) -> Result.
with(#{gateway := Program}, More, Fun) ->
    scratch(fun(#{keep := Keep} = Scratch) ->
        Programs = [{ours, Program}, {theirs, plain} | [{cnode, cnode} || filelib:is_regular(?CNODE)]],
        Roles = [{publisher, []}, {subscriber, []}, {alarm, []} | [{shim, shim_path()} || shim <- More]],
        %% All start at the same time.
        Started = [{Side, Keep(gateway(Which, atom_to_list(Side), Scratch))} || {Side, Which} <- Programs],
        Peers = peers(Roles, Scratch),
        _ = [await_ready(Gateway) || {_, Gateway} <- Started],
        Rig = maps:from_list(Started ++ Peers),
        #{publisher := Publisher, subscriber := Subscriber, alarm := Alarm} = Rig,
        Gateways = maps:with([ours, theirs, cnode], Rig),
        %% Acknowledgements go from node to node, beside the gateway.
        Shims = [Shim || #{shim := Shim} <- [Rig]],
        _ = [pong = call(Peer1, net_adm, ping, [node_of(Publisher)], 10000) || Peer1 <- Shims],
        _ = [pong = call(Peer1, net_adm, ping, [Node], 10000)
             || Peer1 <- [Publisher, Subscriber, Alarm],
                Node <- [node_of(Subscriber) | [N || #{node := N} <- maps:values(Gateways)]],
                node_of(Peer1) =/= Node],
        Fun(Rig)
    end).

%% @doc Measures both gateways in turns, so many times each, with a fresh rig for every measurement:
%% memory that was given back is not taken again, and a stopped node leaves its traces. The quick
%% form measures each once, on the same rig.
-spec both(bench:options(), pos_integer(), fun((rig(), gateway()) -> A)) ->
    #{ours := [A], theirs := [A]}.
both(#{quick := true} = Options, _, Measure) ->
    with(Options, fun(Rig) ->
        maps:map(fun(_, Gateway) -> [Measure(Rig, Gateway)] end, maps:with([ours, theirs], Rig))
    end);
both(Options, Rounds, Measure) ->
    On = fun(Side) ->
        fun() -> with(Options, fun(Rig) -> Measure(Rig, maps:get(Side, Rig)) end) end
    end,
    bench:alternate(Options#{rounds := Rounds}, #{ours => On(ours), theirs => On(theirs)}).

%% @doc Runs `Fun' with a folder of its own, and takes down what it kept, whatever happens.
-spec scratch(fun((scratch()) -> Result)) -> Result.
scratch(Fun) ->
    Id = integer_to_list(erlang:unique_integer([positive]) * 1000 + rand:uniform(999)),
    Dir = filename:absname("target/bench/tmp/" ++ os:getpid() ++ "_" ++ Id),
    ok = filelib:ensure_dir(Dir ++ "/x"),
    Cookie = "bench" ++ integer_to_list(rand:uniform(1 bsl 60), 36),
    %% EPMD must be there before the nodes look for it.
    _ = os:cmd("epmd -daemon"),
    Started = ets:new(started, [public]),
    Keep = fun(Thing) -> ets:insert(Started, {erlang:unique_integer([monotonic]), Thing}), Thing end,
    try
        Fun(#{dir => Dir, cookie => Cookie, keep => Keep})
    after
        _ = [stop(Thing) || {_, Thing} <- lists:reverse(lists:sort(ets:tab2list(Started)))],
        ets:delete(Started),
        file:del_dir_r(Dir)
    end.

%% @doc Calls a function on one of the rig's nodes.
-spec call(pid(), module(), atom(), [term()], timeout()) -> term().
call(Peer, Module, Function, Arguments, Timeout) ->
    peer:call(Peer, Module, Function, Arguments, Timeout).

%% @doc The processor time that the threads of a gateway have used. It is read in nanoseconds: the
%% hundredths of seconds in /proc/PID/stat are too coarse for a short measurement.
-spec cpu_seconds(gateway()) -> float().
cpu_seconds(#{os_pid := OsPid}) ->
    [_ | _] = Files = filelib:wildcard("/proc/" ++ integer_to_list(OsPid) ++ "/task/*/schedstat"),
    lists:sum([on_processor(file:read_file(File)) || File <- Files]) / 1.0e9.

on_processor({ok, Text}) ->
    [Nanoseconds | _] = string:lexemes(Text, " "),
    binary_to_integer(Nanoseconds);
on_processor({error, _}) ->
    %% The thread has just ended.
    0.

%% @doc The memory of a gateway that is in use now.
-spec resident_bytes(gateway()) -> non_neg_integer().
resident_bytes(#{os_pid := OsPid}) ->
    {ok, Status} = file:read_file("/proc/" ++ integer_to_list(OsPid) ++ "/status"),
    {match, [Kilobytes]} =
        re:run(Status, "VmRSS:\\s+([0-9]+) kB", [{capture, all_but_first, list}]),
    list_to_integer(Kilobytes) * 1024.

%% @doc The secret both gateways verify with.
-spec secret() -> binary().
secret() -> <<"a secret for benchmarks">>.

node_of(Peer) -> peer:call(Peer, erlang, node, []).

%% @doc What every BEAM of a benchmark is started with.
-spec beam_arguments(string()) -> [string()].
beam_arguments(Cookie) ->
    ["-setcookie", Cookie, "-connect_all", "false", "-kernel",
     "prevent_overlapping_partitions", "false",
     "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none",
     "-pa", filename:absname("target/bench/ebin")].

%% @doc A name for a node, without its host, that no other has.
-spec name(string()) -> string().
name(Role) ->
    "bench_" ++ Role ++ "_" ++ os:getpid() ++ "_" ++ integer_to_list(rand:uniform(1 bsl 30), 36).

%% @doc Starts a BEAM node with that name and more arguments.
-spec peer(string(), [string()], scratch()) -> pid().
peer(Name, More, #{cookie := Cookie}) ->
    {ok, Peer, _} = peer:start(#{
        name => Name,
        host => "127.0.0.1",
        longnames => true,
        connection => standard_io,
        args => beam_arguments(Cookie) ++ More
    }),
    Peer.

%% Starts nodes in these roles, with more arguments.
peers(Roles, #{keep := Keep} = Scratch) ->
    Starting = [{Role, spawn_monitor(fun() ->
        exit({started, Keep(peer(name(atom_to_list(Role)), More, Scratch))})
    end)} || {Role, More} <- Roles],
    [receive
        {'DOWN', Ref, process, _, {started, Peer}} -> {Role, Peer};
        {'DOWN', Ref, process, _, Reason} -> error({node_not_started, Role, Reason})
     end || {Role, {_, Ref}} <- Starting].

shim_path() ->
    lists:append([["-pa", filename:absname(Dir)] || Dir <- filelib:wildcard("_build/default/lib/*/ebin")]).

gateway(Program, Role, #{dir := Dir} = Scratch) ->
    Node = name(Role) ++ "@127.0.0.1",
    {Executable, Arguments} = command(Program, Node, Scratch),
    launch(Node, Executable, Arguments, filename:join(Dir, Role ++ ".log")).

%% @doc Starts the program of a node, which writes to that log; see {@link await_ready/1}.
-spec launch(string(), file:filename(), [string()], file:filename()) -> gateway().
launch(Node, Executable, Arguments, Log) ->
    %% The shell gives its place to the program, which so keeps the process id.
    Port = open_port({spawn_executable, "/bin/sh"}, [
        {args, ["-c", "log=$1; shift; exec \"$@\" 2>>\"$log\"", "sh", Log, Executable | Arguments]},
        {env, [{"ESDB_GATER_SECRET", binary_to_list(secret())}]},
        {line, 1000}, exit_status
    ]),
    {os_pid, OsPid} = erlang:port_info(Port, os_pid),
    #{node => list_to_atom(Node), os_pid => OsPid, port => Port, log => Log}.

command(plain, Node, #{cookie := Cookie}) ->
    {os:find_executable("erl"),
     ["-noshell", "-name", Node, "-s", "plain_gateway" | beam_arguments(Cookie)]};
command(cnode, Node, Scratch) ->
    {filename:absname(?CNODE), [Node, cookie_file(Scratch)]};
command(Program, Node, #{dir := Dir} = Scratch) ->
    {filename:absname(Program),
     ["start", "--name", Node, "--cookie-file", cookie_file(Scratch),
      "--data-dir", filename:join(Dir, "data"), "--embedded"]}.

%% @doc A file with the cookie.
-spec cookie_file(scratch()) -> file:filename().
cookie_file(#{cookie := Cookie, dir := Dir}) ->
    File = filename:join(Dir, "cookie"),
    _ = filelib:is_regular(File) orelse begin
        ok = file:write_file(File, Cookie),
        ok = file:change_mode(File, 8#400)
    end,
    File.

%% @doc Waits until a program that was launched says that it is ready.
-spec await_ready(gateway()) -> ok.
await_ready(#{port := Port, log := Log}) -> ready(Port, Log).

ready(Port, Log) ->
    receive
        {Port, {data, {eol, "ready " ++ _}}} -> ok;
        {Port, {data, _}} -> ready(Port, Log);
        {Port, {exit_status, Status}} -> error({gateway_ended, Status, log(Log)})
    after ?START_MS ->
        error({gateway_not_ready, log(Log)})
    end.

log(File) ->
    case file:read_file(File) of
        {ok, Text} -> Text;
        {error, Reason} -> Reason
    end.

stop(Peer) when is_pid(Peer) ->
    peer:stop(Peer);
stop(#{port := Port, os_pid := OsPid}) ->
    case erlang:port_info(Port) of
        undefined ->
            %% It ended before, and the process id may be another's by now.
            ok;
        _ ->
            %% All gateways stop at the end of their input.
            catch port_close(Port),
            await_end("/proc/" ++ integer_to_list(OsPid), OsPid, erlang:monotonic_time(millisecond))
    end.

%% @doc Kills a gateway, which may be dead already; when that is done.
-spec kill(gateway()) -> ok.
kill(#{port := Port, os_pid := OsPid}) ->
    case erlang:port_info(Port) of
        undefined ->
            receive {Port, {exit_status, _}} -> ok after 0 -> ok end;
        _ ->
            _ = os:cmd("kill -KILL " ++ integer_to_list(OsPid)),
            receive {Port, {exit_status, _}} -> ok end,
            catch port_close(Port),
            ok
    end.

await_end(Proc, OsPid, Since) ->
    Waited = erlang:monotonic_time(millisecond) - Since,
    case filelib:is_dir(Proc) of
        false -> ok;
        true when Waited > ?STOP_MS -> os:cmd("kill -KILL " ++ integer_to_list(OsPid));
        true -> timer:sleep(20), await_end(Proc, OsPid, Since)
    end.
