-module(esdb_identity_tests).

-include_lib("eunit/include/eunit.hrl").

-include("../include/esdb_capability_types.hrl").

-define(KNOWN, <<"did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK">>).

an_identity_is_named_by_its_key_test() ->
    Identity = esdb_identity:generate(),
    Did = esdb_identity:did(Identity),
    ?assertMatch(<<"did:key:z6Mk", _/binary>>, Did),
    ?assertEqual({ok, esdb_identity:public_key(Identity)}, esdb_identity:public_key_from_did(Did)),
    Same = esdb_identity:from_keypair(esdb_identity:public_key(Identity),
                                      esdb_identity:private_key(Identity)),
    ?assertEqual(Identity, Same),
    Public = esdb_identity:from_public_key(esdb_identity:public_key(Identity)),
    ?assertEqual({Did, undefined}, {esdb_identity:did(Public), esdb_identity:private_key(Public)}).

the_name_of_the_specification_is_its_key_test() ->
    {ok, <<16#2e, 16#6f, 16#cc, 16#e3, _:28/binary>> = Key} = esdb_identity:public_key_from_did(?KNOWN),
    ?assertEqual(?KNOWN, esdb_identity:did(esdb_identity:from_public_key(Key))),
    ?assert(esdb_identity:is_valid_did(?KNOWN)).

what_is_no_name_of_a_key_is_refused_test_() ->
    [?_assertEqual({error, invalid_did}, esdb_identity:public_key_from_did(Did))
     || Did <- [<<>>, atom, "did:key:z6Mk", <<"did:key:z">>, <<"did:web:example.org">>,
                <<?KNOWN/binary, "K">>, binary:part(?KNOWN, 0, byte_size(?KNOWN) - 1),
                <<"did:key:z1", (binary:part(?KNOWN, 9, byte_size(?KNOWN) - 9))/binary>>,
                binary:replace(?KNOWN, <<"2doK">>, <<"2do0">>),
                <<"did:key:z", (binary:copy(<<"z">>, 1000000))/binary>>]].

keys_of_another_length_are_refused_test() ->
    ?assertError(badarg, esdb_identity:from_public_key(<<1:248>>)),
    ?assertError(badarg, esdb_identity:from_keypair(<<1:256>>, <<1:512>>)).

base58_is_that_of_bitcoin_test_() ->
    [[?_assertEqual(Text, esdb_identity:base58_encode(Bytes)),
      ?_assertEqual({ok, Bytes}, esdb_identity:base58_decode(Text))]
     || {Bytes, Text} <- [{<<>>, <<>>}, {<<0>>, <<"1">>}, {<<0, 0, 1>>, <<"112">>},
                          {<<"Hello World!">>, <<"2NEpo7TZRRrLZSi2U">>},
                          {<<16#0000287fb4cd:48>>, <<"11233QC4">>}]]
    ++ [?_assertEqual({error, invalid_base58}, esdb_identity:base58_decode(Text))
        || Text <- [<<"0">>, <<"O">>, <<"I">>, <<"l">>, <<"a b">>]].
