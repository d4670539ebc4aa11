%% @doc What `esdb_gater_api:execute/2' adds to a bare `gen_server:call' of a local worker.
%%
%% The registry's copy in this BEAM is filled directly: choosing a worker asks neither a process
%% nor a gateway. Calls go in blocks, bare and through `execute' in turns, because the wake-up
%% of the other process takes longer than what is measured, and drifts.
-module(bench_execute).

-behaviour(bench).
-behaviour(gen_server).

-export([title/0, run/1]).
-export([init/1, handle_call/3, handle_cast/2]).

-define(STORE, bench_store).
-define(BLOCK, 200).

title() -> "execute".

run(#{milliseconds := Milliseconds} = Options) ->
    case code:ensure_loaded(esdb_gater_api) of
        {module, _} ->
            {ok, Tables} = esdb_gater_tables:start_link(esdb_gater_tables, esdb_gater_heir),
            Rows = [row(N, Milliseconds, Options) || N <- [1, 1000, 10000]],
            unlink(Tables),
            exit(Tables, kill),
            Rows;
        {error, _} ->
            {skip, "the shim is not compiled"}
    end.

row(N, Milliseconds, Options) ->
    Workers = [begin {ok, Pid} = gen_server:start_link(?MODULE, [], []), Pid end
               || _ <- lists:seq(1, N)],
    [true = esdb_gater_workers:add(?STORE, Pid) || Pid <- Workers],
    #{both := Measured} =
        bench:alternate(Options, #{both => fun() -> measure(list_to_tuple(Workers), Milliseconds) end}),
    [true = esdb_gater_workers:remove(?STORE, Pid) || Pid <- Workers],
    [gen_server:stop(Pid) || Pid <- Workers],
    #{what => io_lib:format("execute over a bare call, ~b workers", [N]),
      unit => "us/call", better => less, against => "the bare gen_server:call itself",
      ours => [Over || {Over, _} <- Measured], theirs => [Bare || {_, Bare} <- Measured],
      limit => 1.0}.

%% Microseconds that execute takes longer, and that the bare call takes: medians of blocks.
measure(Workers, Milliseconds) ->
    Self = self(),
    {Pid, Ref} = spawn_monitor(fun() ->
        End = erlang:monotonic_time(millisecond) + Milliseconds,
        Self ! {self(), blocks(Workers, 1, End, [])}
    end),
    receive
        {Pid, Blocks} ->
            demonitor(Ref, [flush]),
            {bench:median([Execute - Bare || {Execute, Bare} <- Blocks]),
             bench:median([Bare || {_, Bare} <- Blocks])};
        {'DOWN', Ref, _, _, Reason} ->
            error(Reason)
    end.

blocks(Workers, Next, End, Acc) ->
    Bare = timed(fun() -> bare(Workers, Next, ?BLOCK) end),
    Execute = timed(fun() -> execute(?BLOCK) end),
    Block = {Execute / ?BLOCK, Bare / ?BLOCK},
    case erlang:monotonic_time(millisecond) < End of
        true -> blocks(Workers, Next + ?BLOCK, End, [Block | Acc]);
        false -> [Block | Acc]
    end.

timed(Fun) ->
    Started = erlang:monotonic_time(nanosecond),
    Fun(),
    (erlang:monotonic_time(nanosecond) - Started) / 1000.

%% Each in turn as well: another process to wake is part of the price of either.
bare(_Workers, _Next, 0) -> ok;
bare(Workers, Next, Left) ->
    {ok, done} = gen_server:call(element(Next rem tuple_size(Workers) + 1, Workers), request),
    bare(Workers, Next + 1, Left - 1).

execute(0) -> ok;
execute(Left) ->
    {ok, done} = esdb_gater_api:execute(?STORE, fun(Worker) -> gen_server:call(Worker, request) end),
    execute(Left - 1).

init([]) -> {ok, []}.

handle_call(request, _From, State) -> {reply, {ok, done}, State}.

handle_cast(_Message, State) -> {noreply, State}.
