%% @doc The clients of the registry, on a BEAM of their own: they ask a gateway or Ra for the
%% same things.
-module(bench_registry_load).

-export([cycles/3, lookups/4, fill/4, await_workers/4, register_once/1, leader/1, fail_over/2]).
-export_type([target/0]).

%% Where commands go: a gateway (or the plain one), or the server of Ra on a node; the next
%% one when it does not answer.
-type target() :: {gateway | ra, [node(), ...]}.

-define(STORE, bench_store).
-define(CALL_MS, 5000).
%% How long to wait for an answer of a server that may have lost its leader.
-define(TRY_MS, 1000).
-define(REGISTRARS, 64).
%% Of so many answers one is compared as a whole: to compare long ones takes a good part of what
%% the clients' time is for.
-define(SAMPLE, 16).

%% @doc So many clients register and unregister themselves again and again for so many
%% milliseconds: commands per second, and microseconds of the middle one.
-spec cycles(target(), pos_integer(), pos_integer()) -> {float(), float()}.
cycles(Target, Clients, Milliseconds) ->
    together(Clients, Milliseconds, fun() ->
        Self = self(),
        {{register, ?STORE, Self}, {unregister, ?STORE, Self}}
    end, Target, ok).

%% @doc So many clients ask for the workers of a store of `Workers' workers: look-ups per second,
%% and microseconds of the middle one.
-spec lookups(target(), pos_integer(), pos_integer(), pos_integer()) -> {float(), float()}.
lookups(Target, Clients, Workers, Milliseconds) ->
    Ask = {get_workers, ?STORE},
    Pids = [spawn(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, Workers)],
    ok = at_once(Target, [{register, ?STORE, Pid} || Pid <- Pids]),
    {ok, Found} = call(Target, Ask),
    Workers = length(Found),
    Measured = together(Clients, Milliseconds, fun() -> {Ask, Ask} end, Target, {ok, Found}),
    ok = at_once(Target, [{unregister, ?STORE, Pid} || Pid <- Pids]),
    _ = [Pid ! stop || Pid <- Pids],
    Measured.

%% One after the other, each would wait for the disk.
at_once(Target, Requests) ->
    Self = self(),
    Pids = [spawn_monitor(fun() -> Self ! {self(), call(Target, Request, 30000)} end)
            || Request <- Requests],
    lists:foreach(fun({Pid, Ref}) -> ok = await(Pid, Ref) end, Pids).

%% Every client alternates between two requests, which are all answered alike.
together(Clients, Milliseconds, Requests, Target, Answer) ->
    Self = self(),
    Pids = [spawn_monitor(fun() ->
        {Odd, Even} = Requests(),
        Answer = call(Target, Odd),
        Answer = call(Target, Even),
        Self ! {self(), warm},
        receive {go, End} -> ok end,
        Self ! {self(), alternate(Target, Odd, Even, Answer, End, now_ns(), [], 1)}
    end) || _ <- lists:seq(1, Clients)],
    _ = [await(Pid, Ref) || {Pid, Ref} <- Pids],
    Start = now_ns(),
    _ = [Pid ! {go, Start + Milliseconds * 1000000} || {Pid, _} <- Pids],
    Times = lists:append([await(Pid, Ref) || {Pid, Ref} <- Pids]),
    Seconds = (now_ns() - Start) / 1.0e9,
    {length(Times) / Seconds, bench:median(Times) / 1000}.

await(Pid, Ref) ->
    receive
        {Pid, Result} -> Result;
        {'DOWN', Ref, process, Pid, Reason} -> error(Reason)
    end.

alternate(Target, Odd, Even, Answer, End, Before, Times, Pairs) ->
    ok = compare(Pairs, Answer, call(Target, Odd)),
    Between = now_ns(),
    ok = compare(Pairs, Answer, call(Target, Even)),
    Now = now_ns(),
    Times1 = [Now - Between, Between - Before | Times],
    case Now >= End of
        true -> Times1;
        false -> alternate(Target, Odd, Even, Answer, End, Now, Times1, Pairs + 1)
    end.

compare(Pairs, Answer, Given) when Pairs rem ?SAMPLE =:= 0 -> Answer = Given, ok;
compare(_, {ok, [First | _]}, {ok, [First | _]}) -> ok;
compare(_, Short, Short) -> ok.

%% @doc Registers so many processes for so many stores in turn, and `?STORE' is not among
%% them. They live as long as this node; how many are registered after so many milliseconds
%% at the most.
-spec fill(target(), pos_integer(), pos_integer(), pos_integer()) -> non_neg_integer().
fill(Target, Count, Stores, Milliseconds) ->
    End = now_ns() + Milliseconds * 1000000,
    Self = self(),
    Registrars = [spawn_monitor(fun() ->
        Numbers = lists:seq(First, Count, ?REGISTRARS),
        Self ! {self(), fill(Target, Numbers, Stores, End, 0)}
    end) || First <- lists:seq(1, ?REGISTRARS)],
    lists:sum([await(Pid, Ref) || {Pid, Ref} <- Registrars]).

fill(Target, [N | Numbers], Stores, End, Done) ->
    case now_ns() < End of
        true ->
            Pid = spawn_opt(fun() -> receive stop -> ok end end, [{min_heap_size, 10}]),
            ok = call(Target, {register, store(N rem Stores), Pid}),
            fill(Target, Numbers, Stores, End, Done + 1);
        false ->
            Done
    end;
fill(_, [], _, _, Done) ->
    Done.

store(N) -> list_to_atom("bench_store_" ++ integer_to_list(N)).

%% @doc Waits until all registrations of {@link fill/4} are offered, for so many milliseconds at
%% the most: how many are.
-spec await_workers(target(), pos_integer(), pos_integer(), pos_integer()) -> non_neg_integer().
await_workers(Target, Count, Stores, Milliseconds) ->
    await_workers_until(Target, Count, Stores, now_ns() + Milliseconds * 1000000).

await_workers_until(Target, Count, Stores, End) ->
    Found = lists:sum([offered(Target, store(N)) || N <- lists:seq(0, Stores - 1)]),
    case Found < Count andalso now_ns() < End of
        false -> Found;
        true -> timer:sleep(50), await_workers_until(Target, Count, Stores, End)
    end.

offered(Target, Store) ->
    try call(Target, {get_workers, Store}) of
        {ok, Workers} -> length(Workers);
        _ -> 0
    catch
        exit:_ -> 0
    end.

%% @doc Registers this process and unregisters it, trying until that succeeds. When it was
%% registered, in nanoseconds of the system's time.
-spec register_once(target()) -> integer().
register_once(Target) ->
    register_until(Target),
    Now = os:system_time(nanosecond),
    ok = call(Target, {unregister, ?STORE, self()}),
    Now.

register_until({Kind, [Node | Nodes]} = Target) ->
    try call(Target, {register, ?STORE, self()}, ?TRY_MS) of
        ok -> ok;
        _ -> register_until({Kind, Nodes ++ [Node]})
    catch
        exit:_ ->
            _ = net_kernel:connect_node(Node),
            register_until({Kind, Nodes ++ [Node]})
    end.

%% @doc The node that leads, once there is one that all others know.
-spec leader(target()) -> node().
leader({Kind, Nodes} = Target) ->
    case lists:usort([leader(Kind, Node) || Node <- Nodes]) of
        [{ok, Leader}] -> Leader;
        _ -> timer:sleep(20), leader(Target)
    end.

leader(ra, Node) ->
    ra_registry:leader(Node);
leader(gateway, Node) ->
    try gen_server:call({esdb_gater_cluster, Node}, status, ?TRY_MS) of
        {ok, #{leader := undefined}} -> {error, no_leader};
        {ok, #{leader := Leader}} -> {ok, Leader};
        Other -> {error, Other}
    catch
        exit:Reason -> {error, Reason}
    end.

%% @doc Kills the program of that process id: milliseconds until another registration is
%% acknowledged by what is left.
-spec fail_over(target(), integer()) -> float().
fail_over(Left, OsPid) ->
    Start = os:system_time(nanosecond),
    [] = os:cmd("kill -KILL " ++ integer_to_list(OsPid)),
    (register_once(Left) - Start) / 1.0e6.

call(Target, Request) -> call(Target, Request, ?CALL_MS).

call({gateway, [Node | _]}, Request, Timeout) ->
    gen_server:call({esdb_gater_worker_registry, Node}, Request, Timeout);
call({ra, Nodes}, Request, Timeout) ->
    ra_registry:call(Nodes, Request, Timeout).

now_ns() -> erlang:monotonic_time(nanosecond).
