%% @doc Signing, verifying and rate checks inside one BEAM, against what Erlang offers.
-module(bench_nif).
-behaviour(bench).

-export([title/0, run/1]).

-define(SECRET, <<"a secret for benchmarks">>).
-define(TOPIC, <<"events.user.created">>).
%% The clock is read once for so many calls.
-define(BATCH, 500).

-spec title() -> string().
title() -> "signatures and rate checks in the BEAM".

-spec run(bench:options()) -> [bench:row()] | {skip, string()}.
run(Options) ->
    case code:ensure_loaded(esdb_gater_nif) of
        {module, _} ->
            ok = esdb_pubsub_security:set_secret(?SECRET),
            Note = case esdb_gater_nif:loaded() of
                       true -> "";
                       false -> "without the NIF"
                   end,
            [Row#{note => Note} || Row <- rows(Options)];
        {error, _} ->
            {skip, "the shim is not built"}
    end.

rows(Options) ->
    Message = #{type => alert, level => critical, id => 42, topic => <<"a.b.c">>,
                data => binary:copy(<<"x">>, 64)},
    Signed = esdb_pubsub_security:sign(Message),
    Plain = sign(Message),
    Table = ets:new(rates, [public, set, {write_concurrency, true}]),
    %% So high a rate that every check passes.
    Limiter = esdb_gater_limit:new(1_000_000_000),
    [row(Options, "sign/1, 5 keys with 64 B", "Erlang", 0.5,
         fun() -> esdb_pubsub_security:sign(Message) end, fun() -> sign(Message) end),
     row(Options, "verify/1, 5 keys with 64 B", "Erlang", 0.5,
         fun() -> ok = esdb_pubsub_security:verify(Signed) end, fun() -> verify(Plain) end),
     row(Options, "rate check", "ets:update_counter/4", 1.0,
         fun() -> esdb_gater_limit:check(Limiter, ?TOPIC) end,
         fun() -> ets:update_counter(Table, ?TOPIC, 1, {?TOPIC, 0}) end)].

%% What one writes in Erlang, with neither secrets to look up nor a canonical form.
sign(Message) ->
    Timed = Message#{signed_at => os:system_time(second)},
    Timed#{signature => mac(Timed)}.

verify(#{signature := Signature, signed_at := At} = Signed) ->
    true = abs(os:system_time(second) - At) =< 300,
    true = crypto:hash_equals(mac(maps:remove(signature, Signed)), Signature),
    ok.

mac(Message) ->
    base64:encode(crypto:mac(hmac, sha256, ?SECRET, term_to_binary(Message))).

row(#{milliseconds := Milliseconds} = Options, What, Against, Target, Ours, Theirs) ->
    Measure = fun(Fun) -> fun() -> nanoseconds(Milliseconds div 4, Fun) end end,
    #{ours := Measured, theirs := Others} =
        bench:alternate(Options, #{ours => Measure(Ours), theirs => Measure(Theirs)}),
    #{what => What, unit => "ns", better => less, target => Target, against => Against,
      ours => Measured, theirs => Others}.

%% The median over batches of what a call takes. In a process of its own, for a fresh heap.
nanoseconds(Milliseconds, Fun) ->
    Self = self(),
    {Pid, Ref} = spawn_monitor(fun() ->
        End = erlang:monotonic_time(nanosecond) + Milliseconds * 1_000_000,
        Self ! {times, self(), batches(End, Fun, [])}
    end),
    receive
        {times, Pid, Times} -> demonitor(Ref, [flush]), bench:median(Times);
        {'DOWN', Ref, process, Pid, Reason} -> error(Reason)
    end.

batches(End, Fun, Times) ->
    Begun = erlang:monotonic_time(nanosecond),
    ok = batch(?BATCH, Fun),
    Now = erlang:monotonic_time(nanosecond),
    Measured = [(Now - Begun) / ?BATCH | Times],
    case Now >= End of
        true -> Measured;
        false -> batches(End, Fun, Measured)
    end.

batch(0, _Fun) -> ok;
batch(N, Fun) ->
    _ = Fun(),
    batch(N - 1, Fun).
