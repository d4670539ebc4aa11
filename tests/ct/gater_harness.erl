%% @doc The real gateway and real BEAM nodes, for suites and the demo.
%%
%% A *world* is a temporary directory, a cookie and everything that was started in it.
%% Its process owns the gateways' ports, so gateways and nodes live as long as the world
%% and not as long as the test case that asked for them; `stop/1' takes it all down.
%%
%% The node that runs the tests is not distributed: it talks to its nodes through their
%% standard input and output and so takes no part in what is tested.
-module(gater_harness).

-export([new/0, stop/1, cookie/1, dir/1]).
-export([gateway/1, gateway/2, launch/2, restart/2, signal/2, await_exit/2, alive/1, log/1,
         resident_bytes/1]).
-export([node/1, node/2, on/2, on/3, agent/1, in/2, messages/1, kill_node/2, on_release/2]).
-export([until/1, until/2, stopwatch/0, within/2, call/3, call/4, cast/3, unique/1, program/0]).
-export_type([world/0, gateway/0, beam/0]).

-type world() :: pid().
-type gateway() :: #{
    node := node(),
    %% Of the distribution listener.
    port := inet:port_number(),
    os_pid := integer(),
    options := map(),
    log := file:filename()
}.
-type beam() :: #{
    peer := pid(),
    node := node(),
    os_pid := integer(),
    %% The release.
    otp := pos_integer(),
    lambdas := gater_release:lambdas()
}.

-define(START_MS, 30000).
-define(STOP_MS, 15000).
-define(UNTIL_MS, 30000).
-define(CALL_MS, 120000).
%% Between two looks at a condition.
-define(LOOK_MS, 10).

%%% Worlds

%% @doc An empty world.
-spec new() -> world().
new() ->
    Dir = filename:join([root(), "target", "ct", "tmp", unique("world")]),
    ok = filelib:ensure_dir(filename:join(Dir, "x")),
    Cookie = unique("cookie"),
    File = filename:join(Dir, "cookie"),
    ok = file:write_file(File, Cookie),
    ok = file:change_mode(File, 8#400),
    %% Nodes look for it when they start.
    _ = os:cmd("epmd -daemon"),
    spawn(fun() -> world(#{dir => Dir, cookie => Cookie, gateways => #{}, beams => []}) end).

%% @doc Ends every gateway and node of a world and removes its files.
-spec stop(world()) -> ok.
stop(World) -> ask(World, stop).

%% @doc The cookie of all nodes of a world.
-spec cookie(world()) -> string().
cookie(World) -> ask(World, cookie).

%% @doc The world's directory.
-spec dir(world()) -> file:filename().
dir(World) -> ask(World, dir).

%%% Gateways

%% @doc Starts a gateway and waits for its ready line.
-spec gateway(world()) -> gateway().
gateway(World) -> gateway(World, #{}).

%% @doc As `gateway/1' with `args', `env', `config' (the text of its file),
%% `base' (of its name) or `name', `data_dir', and `via': a command that runs it.
-spec gateway(world(), map()) -> gateway().
gateway(World, Options) ->
    {ok, Gateway} = launch(World, Options),
    Gateway.

%% @doc As `gateway/2', for a gateway that may not start.
-spec launch(world(), map()) -> {ok, gateway()} | {error, {ended, integer(), binary()}}.
launch(World, Options) -> ask(World, {gateway, Options}).

%% @doc Starts a gateway that has ended again: same name, same data.
-spec restart(world(), gateway()) -> gateway().
restart(World, #{options := Options}) -> gateway(World, Options).

%% @doc Sends a signal such as `"KILL"' to a program started here.
-spec signal(gateway() | beam(), string()) -> ok.
signal(#{os_pid := OsPid}, Signal) ->
    [] = os:cmd("kill -" ++ Signal ++ " " ++ integer_to_list(OsPid)),
    ok.

%% @doc Waits for a gateway's end; its exit code, 128 and more for a signal.
-spec await_exit(world(), gateway()) -> integer().
await_exit(World, #{os_pid := OsPid}) -> ask(World, {await_exit, OsPid}).

%% @doc Whether the program runs.
-spec alive(gateway() | beam()) -> boolean().
alive(#{os_pid := OsPid}) ->
    case file:read_file("/proc/" ++ integer_to_list(OsPid) ++ "/stat") of
        %% The state follows the name in parentheses; Z has ended but was not waited for.
        {ok, Stat} -> [_, <<State, _/binary>>] = string:split(Stat, ") ", trailing), State =/= $Z;
        {error, _} -> false
    end.

%% @doc What a gateway has logged.
-spec log(gateway()) -> binary().
log(#{log := File}) ->
    {ok, Text} = file:read_file(File),
    Text.

%% @doc The memory a program uses now.
-spec resident_bytes(gateway() | beam()) -> non_neg_integer().
resident_bytes(#{os_pid := OsPid}) ->
    {ok, Status} = file:read_file("/proc/" ++ integer_to_list(OsPid) ++ "/status"),
    {match, [Kilobytes]} =
        re:run(Status, "VmRSS:\\s+([0-9]+) kB", [{capture, all_but_first, list}]),
    list_to_integer(Kilobytes) * 1024.

%%% BEAM nodes

%% @doc Starts a BEAM node.
-spec node(world()) -> beam().
node(World) -> node(World, #{}).

%% @doc As `node/1' with `name' (the part before the @, `none' for a node without a name), `host',
%% `longnames', `args', `modules' (to load), `otp' (25, 27 or 29; 25 stands for the release that runs the tests) and `via': a command that runs it.
-spec node(world(), map()) -> beam().
node(World, Options) -> ask(World, {node, Options}).

%% @doc Runs a function on a node, in a process that ends with it.
-spec on(beam(), fun(() -> Result)) -> Result.
on(Beam, Fun) -> on(Beam, Fun, ?CALL_MS).

%% @doc As `on/2' with a limit in milliseconds.
-spec on(beam(), fun(() -> Result), timeout()) -> Result.
on(#{peer := Peer, lambdas := Lambdas}, Fun, Timeout) ->
    peer:call(Peer, erlang, apply, [gater_release:portable(Fun, Lambdas), []], Timeout).

%% @doc A process on a node that keeps what it is sent: a subscriber or a worker.
-spec agent(beam()) -> {beam(), pid()}.
agent(Beam) -> {Beam, on(Beam, fun gater_agent:start/0)}.

%% @doc Runs a function in an agent.
-spec in({beam(), pid()}, fun(() -> Result)) -> Result.
in({Beam, Pid}, Fun) -> on(Beam, fun() -> gater_agent:run(Pid, Fun) end).

%% @doc What an agent was sent, in order.
-spec messages({beam(), pid()}) -> [term()].
messages({Beam, Pid}) -> on(Beam, fun() -> gater_agent:messages(Pid) end).

%% @doc Kills a node's program and waits until it is gone.
-spec kill_node(world(), beam()) -> ok.
kill_node(World, Beam) ->
    signal(Beam, "KILL"),
    until(fun() -> not alive(Beam) end),
    ask(World, {forget, Beam}).

%% @doc For `init_per_group/2': the configuration with `otp', as `node/2' takes it, in groups
%% that are named after a release.
-spec on_release(otp25 | otp27 | otp29, [tuple()]) -> [tuple()] | {skip, string()}.
on_release(otp25, Config) -> [{otp, 25} | Config];
on_release(otp27, Config) -> on_other(27, Config);
on_release(otp29, Config) -> on_other(29, Config).

on_other(Release, Config) ->
    case gater_release:root(Release) of
        {ok, _} -> [{otp, Release} | Config];
        Skip -> Skip
    end.

%%% Waiting and calling

%% @doc Waits until a function returns `true'.
-spec until(fun(() -> boolean())) -> ok.
until(Condition) -> until(Condition, ?UNTIL_MS).

%% @doc As `until/1' with a limit in milliseconds.
-spec until(fun(() -> boolean()), non_neg_integer()) -> ok.
until(Condition, WithinMs) ->
    until_deadline(Condition, erlang:monotonic_time(millisecond) + WithinMs).

until_deadline(Condition, Deadline) ->
    case {Condition(), erlang:monotonic_time(millisecond) > Deadline} of
        {true, _} -> ok;
        {false, false} -> timer:sleep(?LOOK_MS), until_deadline(Condition, Deadline);
        {false, true} -> error({never_happened, Condition})
    end.

%% @doc Begins to measure how long something takes; see `within/2'.
-spec stopwatch() -> integer().
stopwatch() -> erlang:monotonic_time(millisecond).

%% @doc Asserts that no more than so many milliseconds have gone since a stopwatch was begun, on a
%% machine that has nothing else to do. One that is busy gives each process a share of its time, which
%% is measured: by that the limit grows. Gives the milliseconds it took.
-spec within(integer(), pos_integer()) -> Took :: integer().
within(Begun, LimitMs) ->
    Took = erlang:monotonic_time(millisecond) - Begun,
    case Took =< LimitMs orelse Took =< LimitMs * share() of
        true -> Took;
        false -> error({took_ms, Took, limit_ms, LimitMs})
    end.

%% How much longer than the time of a processor something takes now.
share() ->
    {ok, Before} = processor_ms(),
    Begun = erlang:monotonic_time(millisecond),
    spin(Before + 200),
    {ok, After} = processor_ms(),
    max(1, (erlang:monotonic_time(millisecond) - Begun) / max(1, After - Before)).

spin(Until) ->
    _ = lists:sum(lists:seq(1, 20000)),
    case processor_ms() of
        {ok, Now} when Now < Until -> spin(Until);
        {ok, _} -> ok
    end.

processor_ms() ->
    {Total, _} = statistics(runtime),
    {ok, Total}.

%% @doc A call from a node to a registered name of a gateway.
-spec call(beam(), {atom(), gateway()}, term()) -> term().
call(Beam, To, Request) -> call(Beam, To, Request, 20000).

%% @doc As `call/3' with a limit in milliseconds.
-spec call(beam(), {atom(), gateway()}, term(), timeout()) -> term().
call(Beam, {Name, #{node := Node}}, Request, Timeout) ->
    on(Beam, fun() -> gen_server:call({Name, Node}, Request, Timeout) end).

%% @doc A cast from a node to a registered name of a gateway.
-spec cast(beam(), {atom(), gateway()}, term()) -> ok.
cast(Beam, {Name, #{node := Node}}, Request) ->
    on(Beam, fun() -> gen_server:cast({Name, Node}, Request) end).

%% @doc A name nobody else uses on this machine.
-spec unique(string()) -> string().
unique(Base) ->
    lists:flatten(io_lib:format("~s_~s_~s", [
        Base, os:getpid(), string:lowercase(integer_to_list(rand:uniform(1 bsl 40), 36))])).

%%% The world's process

ask(World, Request) ->
    Monitor = monitor(process, World),
    World ! {self(), Monitor, Request},
    receive
        {Monitor, {done, Answer}} -> demonitor(Monitor, [flush]), Answer;
        {Monitor, {raised, Reason}} -> demonitor(Monitor, [flush]), error(Reason);
        {'DOWN', Monitor, _, _, Reason} -> error({world_ended, Reason})
    end.

world(State) ->
    receive
        {From, Tag, stop} ->
            _ = [catch peer:stop(Peer) || #{peer := Peer} <- maps:get(beams, State)],
            _ = [end_gateway(OsPid, Gateway)
                 || {OsPid, Gateway} <- maps:to_list(maps:get(gateways, State))],
            _ = file:del_dir_r(maps:get(dir, State)),
            From ! {Tag, {done, ok}};
        {From, Tag, Request} ->
            try serve(Request, State) of
                {Answer, Next} -> From ! {Tag, {done, Answer}}, world(Next)
            catch
                _:Reason:Stack -> From ! {Tag, {raised, {Reason, Stack}}}, world(State)
            end
    end.

serve(cookie, State = #{cookie := Cookie}) ->
    {Cookie, State};
serve(dir, State = #{dir := Dir}) ->
    {Dir, State};
serve({gateway, Options}, State = #{gateways := Gateways}) ->
    case start_gateway(Options, State) of
        {ok, Port, Gateway = #{os_pid := OsPid}} ->
            {{ok, Gateway}, State#{gateways := Gateways#{OsPid => Port}}};
        {error, _} = Error ->
            {Error, State}
    end;
serve({await_exit, OsPid}, State = #{gateways := Gateways}) ->
    #{OsPid := Port} = Gateways,
    {exit_status(Port), State#{gateways := maps:remove(OsPid, Gateways)}};
serve({node, Options}, State = #{beams := Beams}) ->
    Beam = start_node(Options, State),
    {Beam, State#{beams := [Beam | Beams]}};
serve({forget, #{peer := Peer}}, State = #{beams := Beams}) ->
    catch peer:stop(Peer),
    {ok, State#{beams := [Beam || Beam = #{peer := Other} <- Beams, Other =/= Peer]}}.

start_gateway(Options0, #{dir := Dir}) ->
    Options = maps:merge(#{args => [], env => []},
        case Options0 of
            #{name := _} -> Options0;
            _ -> Options0#{name => unique(maps:get(base, Options0, "gater")) ++ "@127.0.0.1"}
        end),
    #{name := Name, args := Arguments, env := Variables} = Options,
    Log = filename:join(Dir, Name ++ ".log"),
    CookieFile = maps:get(cookie_file, Options, filename:join(Dir, "cookie")),
    %% The end of its input stops it, should the tests be ended the hard way.
    All = ["start", "--embedded", "--name", Name, "--cookie-file", CookieFile,
           "--data-dir", maps:get(data_dir, Options, filename:join(Dir, Name))] ++ config_file(Options, Dir, Name) ++ Arguments,
    %% The shell gives its place to the program, which so keeps the process id.
    Port = open_port({spawn_executable, "/bin/sh"}, [
        {args, ["-c", "log=$1; shift; exec \"$@\" 2>>\"$log\"", "sh", Log
                | maps:get(via, Options, []) ++ [program() | All]]},
        {env, [{"ESDB_GATER_LOG", "info"} | Variables]}, {line, 1000}, exit_status]),
    {os_pid, OsPid} = erlang:port_info(Port, os_pid),
    Deadline = erlang:monotonic_time(millisecond) + ?START_MS,
    case ready(Port, Deadline) of
        {ready, Line} ->
            {match, [Node, Listener]} = re:run(Line, "^ready node=(\\S+) port=([0-9]+)$",
                [{capture, all_but_first, list}]),
            Name = Node,
            {ok, Port, #{node => list_to_atom(Node), port => list_to_integer(Listener),
                         os_pid => OsPid, options => Options, log => Log}};
        {ended, Status} ->
            {ok, Text} = file:read_file(Log),
            {error, {ended, Status, Text}};
        never ->
            end_gateway(OsPid, Port),
            {ok, Text} = file:read_file(Log),
            error({gateway_not_ready, Text})
    end.

config_file(#{config := Text}, Dir, Name) ->
    File = filename:join(Dir, Name ++ ".toml"),
    ok = file:write_file(File, Text),
    ok = file:change_mode(File, 8#600),
    ["--config", File];
config_file(_, _, _) ->
    [].

ready(Port, Deadline) ->
    receive
        {Port, {data, {eol, Line = "ready " ++ _}}} -> {ready, Line};
        {Port, {data, _}} -> ready(Port, Deadline);
        {Port, {exit_status, Status}} -> {ended, Status}
    after max(0, Deadline - erlang:monotonic_time(millisecond)) ->
        never
    end.

exit_status(Port) ->
    receive
        {Port, {exit_status, Status}} -> Status
    after ?STOP_MS -> error(gateway_did_not_end)
    end.

end_gateway(OsPid, Port) ->
    catch port_close(Port),
    Gateway = #{os_pid => OsPid},
    %% Stopped programs do not notice the end of their input.
    _ = os:cmd("kill -CONT " ++ integer_to_list(OsPid)),
    try
        until(fun() -> not alive(Gateway) end, ?STOP_MS)
    catch
        error:_ -> os:cmd("kill -KILL " ++ integer_to_list(OsPid))
    end.

start_node(Options, #{cookie := Cookie}) ->
    Base = (named(Options))#{
        connection => standard_io,
        wait_boot => ?START_MS,
        args => ["-setcookie", Cookie, "-connect_all", "false",
                 "-kernel", "prevent_overlapping_partitions", "false",
                 "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"
                 | maps:get(args, Options, [])]
    },
    Release = maps:get(otp, Options, 25),
    Start = case Release of
        25 ->
            case maps:get(via, Options, []) of
                [] -> Base;
                [Program | Arguments] -> Base#{exec => {Program, Arguments ++ [os:find_executable("erl")]}}
            end;
        _ ->
            Base#{exec => gater_release:command(Release)}
    end,
    {Peer, Node} = case peer:start(Start) of
        {ok, Pid, Name} -> {Pid, Name};
        {ok, Pid} -> {Pid, nonode@nohost}
    end,
    %% Other releases and other roots have no path to what was compiled here.
    Lambdas = gater_release:load(Peer, Release, [gater_agent, gater_harness, gater_release
                                                 | maps:get(modules, Options, [])]),
    OsPid = list_to_integer(peer:call(Peer, os, getpid, [])),
    #{peer => Peer, node => Node, os_pid => OsPid, otp => Release, lambdas => Lambdas}.

named(#{name := none}) ->
    #{};
named(Options) ->
    #{name => maps:get(name, Options, unique("beam")),
      host => maps:get(host, Options, "127.0.0.1"),
      longnames => maps:get(longnames, Options, true)}.

%% @doc The gateway's program.
-spec program() -> file:filename().
program() ->
    case os:getenv("GATER_PROGRAM") of
        Program when is_list(Program), Program =/= "" -> Program;
        _ -> filename:join([root(), "target", "release", "esdb-gater"])
    end.

root() ->
    case os:getenv("GATER_ROOT") of
        Root when is_list(Root), Root =/= "" -> Root;
        _ -> {ok, Dir} = file:get_cwd(), Dir
    end.
