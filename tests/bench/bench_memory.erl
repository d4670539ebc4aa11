%% @doc What a gateway takes when nothing happens.
-module(bench_memory).
-behaviour(bench).

-export([title/0, run/1]).

-spec title() -> string().
title() -> "memory at rest".

-spec run(bench:options()) -> [bench:row()].
run(#{quick := Quick} = Options) ->
    Measure = fun() ->
        bench_rig:with(Options, fun(#{ours := Ours, theirs := Theirs}) ->
            timer:sleep(1000),
            {megabytes(Ours), megabytes(Theirs)}
        end)
    end,
    Rounds = case Quick of true -> 1; false -> 3 end,
    {Ours, Theirs} = lists:unzip([Measure() || _ <- lists:seq(1, Rounds)]),
    [#{what => "resident memory, three nodes connected", unit => "MiB", better => less, limit => 20,
       against => "Erlang gateway", ours => Ours, theirs => Theirs}].

megabytes(Gateway) ->
    bench_rig:resident_bytes(Gateway) / (1024 * 1024).
