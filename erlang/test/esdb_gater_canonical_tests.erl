-module(esdb_gater_canonical_tests).

-include_lib("eunit/include/eunit.hrl").

the_golden_vectors_hold_test_() ->
    [{Name, ?_assertEqual(Canonical, esdb_gater_canonical:bytes(Message))}
     || {Name, Message, Canonical, _} <- esdb_gater_gen:vectors()].

the_form_is_that_of_otp_test_() ->
    esdb_gater_gen:holds(
      fun esdb_gater_gen:message/0,
      fun(Message) ->
          Pairs = lists:sort(maps:to_list(maps:remove(signature, Message))),
          Oracle = fun(Minor) ->
                       term_to_binary(Pairs, [deterministic, {minor_version, Minor}])
                   end,
          maps:size(Message) > 32
              orelse (esdb_gater_canonical:bytes(Message) =:= Oracle(2)
                      andalso esdb_gater_canonical:bytes(Message, latin1) =:= Oracle(1))
      end).

the_signature_is_not_part_of_it_test() ->
    Message = #{a => 1, signed_at => 2},
    ?assertEqual(esdb_gater_canonical:bytes(Message),
                 esdb_gater_canonical:bytes(Message#{signature => <<"x">>})).

equal_keys_of_two_kinds_have_one_order_in_a_map_of_any_size_test() ->
    Tied = #{1 => x, 1.0 => x, {2} => y, {2.0} => y},
    Large = maps:merge(Tied, maps:from_list([{N, N} || N <- lists:seq(100, 200)])),
    Decoded = binary_to_term(esdb_gater_canonical:bytes(Large)),
    ?assertEqual([{1, x}, {1.0, x}], lists:sublist(Decoded, 2)),
    ?assertEqual([{{2}, y}, {{2.0}, y}], lists:nthtail(length(Decoded) - 2, Decoded)),
    ?assertEqual([{1, x}, {1.0, x}, {{2}, y}, {{2.0}, y}],
                 binary_to_term(esdb_gater_canonical:bytes(Tied))).
