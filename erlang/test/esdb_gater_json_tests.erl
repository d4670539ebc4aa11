-module(esdb_gater_json_tests).

-include_lib("eunit/include/eunit.hrl").

-include("property.hrl").

values_have_one_form_test_() ->
    [?_assertEqual(Text, esdb_gater_json:encode(Value))
     || {Text, Value} <- [{<<"{\"a\":[1,-2,true,false,null],\"b\":{}}">>,
                           #{<<"b">> => #{}, <<"a">> => [1, -2, true, false, null]}},
                          {<<"\"\\\"\\\\\\u0001\\u001f/é\""/utf8>>, <<"\"\\", 1, 31, "/é"/utf8>>},
                          {<<"[]">>, []}]].

what_was_encoded_is_decoded_to_the_same_test_() ->
    ?FORALL(Value, value(), {ok, Value} =:= esdb_gater_json:decode(esdb_gater_json:encode(Value))).

value() -> proper_types:sized(fun value/1).

value(0) ->
    oneof([true, false, null, text(), range(-16#8000000000000000, 16#7fffffffffffffff)]);
value(Size) ->
    Smaller = value(Size div 4),
    oneof([value(0), list(Smaller), proper_types:bind(list({text(), Smaller}), fun maps:from_list/1, false)]).

text() -> proper_types:bind(list(oneof([range(0, 16#d7ff), range(16#e000, 16#10ffff)])),
                            fun unicode:characters_to_binary/1, false).

escapes_and_white_space_are_read_test() ->
    ?assertEqual({ok, #{<<"a/\"\\\b\f\n\r\tA">> => [1, <<"😀"/utf8>>]}},
                 esdb_gater_json:decode(<<" {\t\"a\\/\\\"\\\\\\b\\f\\n\\r\\t\\u0041\" :\r\n[ 1 , "
                                          "\"\\ud83d\\uDE00\" ] } ">>)).

whatever_two_programs_could_read_in_two_ways_is_refused_test_() ->
    [{Text, ?_assertEqual({error, invalid_json}, esdb_gater_json:decode(Text))}
     || Text <- [<<>>, <<"1.0">>, <<"1e3">>, <<"01">>, <<"-">>, <<"-0">>, <<"+1">>, <<"[1,]">>,
                 <<"{\"a\":1,}">>, <<"{\"a\":1,\"a\":2}">>, <<"{\"a\":1,\"\\u0061\":2}">>, <<"{a:1}">>,
                 <<"[1] 2">>, <<"\"\n\"">>, <<"\"\\x\"">>, <<"\"\\ud800\"">>, <<"\"\\udc00\"">>,
                 <<"\"\\ud83d\\u0041\"">>, <<"\"\\u00g0\"">>, <<"\"", 255, "\"">>, <<"\"abc">>,
                 <<"9223372036854775808">>, <<"-9223372036854775809">>, <<"99999999999999999999">>,
                 <<"nul">>, <<"[">>, <<"{">>, binary:copy(<<"[">>, 100000), <<"{\"a\"}">>]].

what_is_no_json_is_not_encoded_test_() ->
    [?_assertError(badarg, esdb_gater_json:encode(Value))
     || Value <- [1.5, atom, #{atom => 1}, <<255>>, {1}, 1 bsl 63, self()]].
