%% @doc Runs benchmarks and reports them in one table.
%%
%% A benchmark is a module `bench_*' in this folder with `-behaviour(bench)'. Each row it
%% returns holds the measurements of this program and of an alternative, taken in turns in
%% the same run; the report shows the medians and their ratio.
-module(bench).

-export([main/0, alternate/2, median/1, percentile/2, time_calls/2]).
-export_type([options/0, row/0, skipped/0]).

-type options() :: #{
    quick := boolean(),
    %% How often each side is measured.
    rounds := pos_integer(),
    %% How long one measurement takes.
    milliseconds := pos_integer(),
    %% The program, or plain: the Erlang gateway stands on both sides, to test the benchmark.
    gateway := plain | string()
}.
-type row() :: #{
    what := string(),
    unit := string(),
    better := more | less,
    %% What the alternative is.
    against := string(),
    ours := [number()],
    theirs := [number()],
    %% What the ratio ours/theirs is meant to reach.
    target => number(),
    %% What ours is meant to reach by itself, in the row's unit.
    limit => number(),
    note => string()
}.
-type skipped() :: {skip, Reason :: string()}.

-callback title() -> string().
%% What is skipped may be all of it, or stand among the rows.
-callback run(options()) -> [row() | skipped()] | skipped().

-spec main() -> no_return().
main() ->
    try
        Started = erlang:monotonic_time(millisecond),
        {Options, Only} = options(init:get_plain_arguments(), [], defaults()),
        Results = [{M, run(M, Options)} || M <- benchmarks(), wanted(M, Only)],
        bench_report:write("target/bench", Options, Results),
        io:format("took ~ts~n", [since(Started)]),
        halt(0)
    catch
        throw:{usage, Text} ->
            io:format(standard_error, "~ts~nusage: tests/bench/run [--quick] [--only NAME]... "
                      "[--gateway PATH | plain]~n", [Text]),
            halt(64);
        Class:Reason:Stack ->
            io:format(standard_error, "~p: ~p~n~p~n", [Class, Reason, Stack]),
            halt(1)
    end.

%% @doc Measures all sides in turns, `rounds' times each: the measurements of each side
%% in order.
-spec alternate(options(), #{Side => fun(() -> A)}) -> #{Side => [A]}.
alternate(#{rounds := Rounds}, Sides) ->
    Measured = [maps:map(fun(_, Measure) -> Measure() end, Sides) || _ <- lists:seq(1, Rounds)],
    maps:map(fun(Side, _) -> [maps:get(Side, Round) || Round <- Measured] end, Sides).

-spec median([number()]) -> number().
median(Values) -> percentile(Values, 50).

%% @doc The smallest value that at least `Percent' percent of the values do not exceed.
-spec percentile([number(), ...], number()) -> number().
percentile(Values, Percent) ->
    Rank = ceil(length(Values) * Percent / 100),
    lists:nth(max(1, Rank), lists:sort(Values)).

%% @doc Calls `Fun' again and again for so many milliseconds: how long each call took, in
%% microseconds. Runs in a process of its own, for a fresh heap.
-spec time_calls(pos_integer(), fun(() -> term())) -> [float()].
time_calls(Milliseconds, Fun) ->
    Self = self(),
    {Pid, Ref} = spawn_monitor(fun() ->
        End = now_ns() + Milliseconds * 1000000,
        Self ! {times, self(), time_until(End, now_ns(), Fun, [])}
    end),
    receive
        {times, Pid, Times} -> demonitor(Ref, [flush]), Times;
        {'DOWN', Ref, process, Pid, Reason} -> error(Reason)
    end.

time_until(End, Now, _Fun, Times) when Now >= End -> Times;
time_until(End, Now, Fun, Times) ->
    _ = Fun(),
    Then = now_ns(),
    time_until(End, Then, Fun, [(Then - Now) / 1000 | Times]).

now_ns() -> erlang:monotonic_time(nanosecond).

since(Started) ->
    io_lib:format("~.1f s", [(erlang:monotonic_time(millisecond) - Started) / 1000]).

defaults() ->
    #{quick => false, rounds => 5, milliseconds => 4000, gateway => "target/release/esdb-gater"}.

options(["--quick" | Rest], Only, Options) ->
    options(Rest, Only, Options#{quick := true, rounds := 3, milliseconds := 300});
options(["--only", Name | Rest], Only, Options) ->
    options(Rest, [Name | Only], Options);
options(["--gateway", "plain" | Rest], Only, Options) ->
    options(Rest, Only, Options#{gateway := plain});
options(["--gateway", Path | Rest], Only, Options) ->
    options(Rest, Only, Options#{gateway := Path});
options([Other | _], _, _) ->
    throw({usage, "unknown argument " ++ Other});
options([], Only, #{gateway := Gateway} = Options) ->
    case Gateway =:= plain orelse filelib:is_regular(Gateway) of
        true -> {Options, Only};
        false -> throw({usage, Gateway ++ " does not exist: run `make build' first"})
    end.

wanted(_, []) -> true;
wanted(Module, Only) -> lists:member(name(Module), Only).

name(Module) ->
    "bench_" ++ Name = atom_to_list(Module),
    Name.

benchmarks() ->
    Files = lists:sort(filelib:wildcard("target/bench/ebin/bench_*.beam")),
    Modules = [list_to_atom(filename:basename(File, ".beam")) || File <- Files],
    [M || M <- Modules, lists:member(?MODULE, behaviours(M))].

behaviours(Module) ->
    lists:append([Names || {behaviour, Names} <- Module:module_info(attributes)]).

run(Module, Options) ->
    io:format("~ts: ~ts~n", [name(Module), Module:title()]),
    Started = erlang:monotonic_time(millisecond),
    try
        Result = Module:run(Options),
        io:format("  ~ts~n", [since(Started)]),
        Result
    catch
        Class:Reason:Stack ->
            io:format(standard_error, "~ts failed: ~p ~p~n~p~n",
                      [name(Module), Class, Reason, Stack]),
            {skip, "failed: " ++ lists:flatten(io_lib:format("~P", [Reason, 8]))}
    end.
