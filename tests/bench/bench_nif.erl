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
    Messages = [{"5 keys with 64 B", message(64), 3}, {"5 keys with 1 KiB", message(1024), 2.2},
                {"5 keys with 16 KiB", message(16384), 1.15}, {"40 keys, nested", nested(), 2}],
    Signing = [row(Options, "sign/1, " ++ What, "Erlang", 1 / Times,
                   fun() -> esdb_pubsub_security:sign(Message) end, fun() -> sign(Message) end)
               || {What, Message, Times} <- Messages],
    Verifying = [begin
                     Signed = esdb_pubsub_security:sign(Message),
                     Plain = sign(Message),
                     row(Options, "verify/1, " ++ What, "Erlang", 1 / Times,
                         fun() -> ok = esdb_pubsub_security:verify(Signed) end,
                         fun() -> verify(Plain) end)
                 end || {What, Message, Times} <- Messages],
    Signing ++ Verifying ++ rates(Options).

message(Bytes) ->
    #{type => alert, level => critical, id => 42, topic => <<"a.b.c">>,
      data => binary:copy(<<"x">>, Bytes)}.

%% Forty keys with what messages have: texts, numbers, lists and a map.
nested() ->
    maps:from_list([{list_to_atom("bench_key_" ++ integer_to_list(N)),
                     case N rem 4 of
                         0 -> #{id => N, tags => [a, b, c]};
                         1 -> <<"some text of this size">>;
                         2 -> N * 1000;
                         3 -> {point, N, [1.5, 2.5]}
                     end} || N <- lists:seq(1, 40)]).

rates(Options) ->
    Table = ets:new(rates, [public, set, {write_concurrency, true}]),
    %% So high a rate that every check passes.
    Limiter = esdb_gater_limit:new(1_000_000_000),
    Ours = fun(Topic) -> fun() -> esdb_gater_limit:check(Limiter, Topic) end end,
    Theirs = fun(Topic) -> fun() -> ets:update_counter(Table, Topic, 1, {Topic, 0}) end end,
    Both = fun(Make) ->
               fun(Milliseconds) -> both(Milliseconds, Make(<<"events.one">>), Make(<<"events.two">>)) end
           end,
    [row(Options, "rate check, one key", "ets:update_counter/4", 1 / 1.8, Ours(?TOPIC), Theirs(?TOPIC)),
     measured(Options, "rate check, 2 processes, a key each", "ets:update_counter/4", 1 / 1.8,
              Both(Ours), Both(Theirs))].

%% Two processes at a time, each with its own; the mean of what a call takes in either.
both(Milliseconds, One, Two) ->
    Self = self(),
    Pid = spawn_link(fun() -> Self ! {took, self(), nanoseconds(Milliseconds, One)} end),
    Second = nanoseconds(Milliseconds, Two),
    receive {took, Pid, First} -> (First + Second) / 2 end.

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

row(Options, What, Against, Target, Ours, Theirs) ->
    Measure = fun(Fun) -> fun(Milliseconds) -> nanoseconds(Milliseconds, Fun) end end,
    measured(Options, What, Against, Target, Measure(Ours), Measure(Theirs)).

measured(#{milliseconds := Milliseconds} = Options, What, Against, Target, Ours, Theirs) ->
    Measure = fun(Take) -> fun() -> Take(Milliseconds div 4) end end,
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
