-module(esdb_gater_bounds_tests).

-include_lib("eunit/include/eunit.hrl").

-define(MOST, 10000).

nested(Inner, _Wrap, 0) -> Inner;
nested(Inner, Wrap, Levels) -> nested(Wrap(Inner), Wrap, Levels - 1).

list(T) -> [T].
first(T) -> {T, x}.
closure(T) -> fun() -> T end.

nesting_of_ten_thousand_is_taken_and_one_more_is_not_test_() ->
    [{Name, fun() ->
         ?assertEqual(ok, esdb_gater_bounds:message(nested(0, Wrap, ?MOST))),
         ?assertEqual({error, too_deep}, esdb_gater_bounds:message(nested(0, Wrap, ?MOST + 1)))
     end} || {Name, Wrap} <- [{"lists", fun list/1}, {"tuples", fun first/1}]].

nesting_in_keys_and_funs_counts_test() ->
    Half = ?MOST div 2,
    [?assertEqual(Expected, esdb_gater_bounds:message(Term))
     || {Expected, Term} <-
            [{ok, #{nested(0, fun list/1, ?MOST - 1) => 1, z => 2}},
             {{error, too_deep}, #{nested(0, fun list/1, ?MOST) => 1, z => 2}},
             {ok, nested(closure(nested(0, fun list/1, Half)), fun list/1, Half - 1)},
             {{error, too_deep}, nested(closure(nested(0, fun list/1, Half)), fun list/1, Half)}]].

what_is_last_in_its_container_adds_no_depth_test() ->
    [?assertEqual(ok, esdb_gater_bounds:message(nested(0, Wrap, 3 * ?MOST)))
     || Wrap <- [fun(T) -> {x, T} end, fun(T) -> #{k => T} end, fun(T) -> [x | T] end]].

a_message_of_more_than_64_mebibytes_is_too_large_test() ->
    Mebi = 1 bsl 20,
    ?assertEqual(ok, esdb_gater_bounds:message(<<0:(63 * Mebi * 8)>>)),
    ?assertEqual({error, too_large}, esdb_gater_bounds:message(<<0:(64 * Mebi * 8)>>)).

%% The lists inside are one list, or this would take a quarter of a gibibyte.
a_message_of_more_than_16_mebi_terms_is_too_large_test_() ->
    Lists = fun(N) -> lists:duplicate(N, lists:duplicate(4096, [])) end,
    {timeout, 60, fun() ->
        ?assertEqual(ok, esdb_gater_bounds:message(Lists(4000))),
        ?assertEqual({error, too_large}, esdb_gater_bounds:message(Lists(4096)))
    end}.

a_topic_is_a_binary_of_1_to_255_bytes_test() ->
    ?assertEqual(ok, esdb_gater_bounds:topic(<<"t">>)),
    ?assertEqual(ok, esdb_gater_bounds:topic(binary:copy(<<"t">>, 255))),
    [?assertEqual({error, {bad_topic, Reason}}, esdb_gater_bounds:topic(Topic))
     || {Topic, Reason} <- [{<<>>, empty}, {binary:copy(<<"t">>, 256), too_long},
                            {"t", not_binary}, {<<1:1>>, not_binary}]].

%% A look at the size and nothing else: a part of what it takes to encode the message, which is
%% the least part of sending it.
a_small_message_costs_less_than_encoding_it_test() ->
    Message = #{type => order_placed, id => 4711, lines => [{<<"sku">>, 1}, {<<"other">>, 2}],
                meta => #{by => self(), at => 1.5}},
    ?assert(best(fun() -> ok = esdb_gater_bounds:message(Message) end)
                < best(fun() -> <<131, _/binary>> = term_to_binary(Message) end)).

best(Fun) ->
    lists:min([begin {Micros, ok} = timer:tc(fun() -> repeat(Fun, 2000) end), Micros end
               || _ <- lists:seq(1, 50)]).

repeat(_Fun, 0) -> ok;
repeat(Fun, N) -> _ = Fun(), repeat(Fun, N - 1).
