-module(esdb_capability_tests).

-include_lib("eunit/include/eunit.hrl").

-include("../include/esdb_capability_types.hrl").
-include("property.hrl").

-define(ALL, <<"esdb://default/*">>).

%%% Making tokens

a_token_says_who_grants_what_to_whom_and_until_when_test() ->
    {Issuer, Audience} = {esdb_identity:generate(), esdb_identity:generate()},
    Grants = [esdb_capability:grant(?ALL, ?ACTION_STREAM_READ)],
    Token = esdb_capability:create(Issuer, Audience, Grants, #{ttl => 60}),
    ?assertEqual(esdb_identity:did(Issuer), esdb_capability:issuer(Token)),
    ?assertEqual(esdb_identity:did(Audience), esdb_capability:audience(Token)),
    ?assertEqual([#{with => ?ALL, can => <<"stream/read">>}], esdb_capability:grants(Token)),
    ?assertEqual(60, esdb_capability:expires_at(Token) - Token#capability.iat),
    ?assertNot(esdb_capability:is_expired(Token)),
    ?assert(esdb_capability:is_expired(Token#capability{exp = erlang:system_time(second)})),
    Default = esdb_capability:create(Issuer, esdb_identity:did(Audience), Grants),
    ?assertEqual(900, esdb_capability:expires_at(Default) - Default#capability.iat),
    ?assertNotEqual(Default#capability.nnc, Token#capability.nnc).

what_no_token_may_say_raises_test() ->
    I = esdb_identity:generate(),
    ?assertError({invalid_ttl, 59}, esdb_capability:create(I, I, [], #{ttl => 59})),
    ?assertError({invalid_ttl, 86401}, esdb_capability:create(I, I, [], #{ttl => 86401})),
    ?assertError({invalid_did, <<"me">>}, esdb_capability:create(I, <<"me">>, [])),
    [?assertError({invalid_grant, _}, esdb_capability:grant(With, <<"*">>))
     || With <- [<<>>, <<"http://a">>, "esdb://a", <<"esdb://", 255>>, <<"**">>]],
    ?assertError({invalid_grant, _}, esdb_capability:grant(?ALL, <<>>)).

a_token_is_signed_by_its_issuer_and_nobody_else_test() ->
    {I, Other} = {esdb_identity:generate(), esdb_identity:generate()},
    Token = esdb_capability:create(I, Other, []),
    #capability{sig = Signature} = Signed = esdb_capability:sign(Token, esdb_identity:private_key(I)),
    ?assertEqual(64, byte_size(Signature)),
    ?assertEqual(Signed, esdb_capability:sign(Token, I)),
    ?assertError(wrong_key, esdb_capability:sign(Token, Other)),
    ?assertError(not_signed, esdb_capability:encode(Token, jwt)).

both_forms_are_read_as_they_were_written_test() ->
    I = esdb_identity:generate(),
    Facts = #{<<"team">> => <<"blü"/utf8>>, <<"n">> => [1, null, #{}]},
    Options = #{facts => Facts, nonce => <<"n">>, not_before => 5},
    Token = esdb_capability:sign(esdb_capability:create(I, I, [], Options), I),
    [?assertEqual({ok, Token}, esdb_capability:decode(Encoded))
     || Encoded <- [esdb_capability:encode(Token), esdb_capability:encode(Token, binary),
                    esdb_capability:encode(Token, jwt)]],
    ?assertMatch(<<"ey", _/binary>>, esdb_capability:encode(Token, jwt)),
    ?assertMatch(<<131, _/binary>>, esdb_capability:encode(Token)).

what_is_no_token_is_refused_test_() ->
    I = esdb_identity:generate(),
    Token = esdb_capability:sign(esdb_capability:create(I, I, []), I),
    Jwt = esdb_capability:encode(Token, jwt),
    Bad = [<<>>, <<"a.b.c">>, <<Jwt/binary, ".">>, <<Jwt/binary, "=">>, <<" ", Jwt/binary>>, atom, 1,
           <<131>>, <<131, 80, 0:32, 1>>, term_to_binary(an_atom), term_to_binary({capability, 1}),
           %% Of an atom that does not exist here.
           <<131, 119, 22, "no_atom_of_this_node_1">>,
           term_to_binary(binary:copy(<<0>>, 10000), [compressed])
           | [term_to_binary(setelement(N, Token, 1.5)) || N <- lists:seq(1, 13)]],
    [?_assertEqual({error, malformed_token}, esdb_capability:decode(Encoded)) || Encoded <- Bad]
    ++ [?_assertEqual({error, token_too_large}, esdb_capability:decode(<<0:(8 * 32769)>>))].

a_term_without_a_json_form_is_refused_and_raises_nothing_test_() ->
    I = esdb_identity:generate(),
    Token = esdb_capability:sign(esdb_capability:create(I, I, []), I),
    Deep = lists:foldl(fun(_, Value) -> [Value] end, 1, lists:seq(1, 200)),
    Bad = [Token#capability{exp = 1 bsl 64}, Token#capability{nbf = -(1 bsl 64)},
           Token#capability{att = [a | b]}, Token#capability{prf = [<<"a">> | <<"b">>]},
           Token#capability{sig = <<0:511>>}, Token#capability{nnc = <<1:1>>},
           Token#capability{fct = #{a => 1}}
           | [Token#capability{fct = #{<<"a">> => Fact}}
              || Fact <- [1.5, self(), [1 | 2], <<255>>, Deep]]],
    [fun() ->
         ?assertEqual({error, malformed_token}, esdb_capability:jwt(Capability)),
         Sent = term_to_binary(Capability),
         ?assertEqual({error, malformed_token}, esdb_capability:decode(Sent)),
         ?assertEqual({error, {unauthorized, malformed_token}},
                      esdb_gater_verifier:admit(required, {token, Sent}, <<"esdb://a">>, <<"x">>))
     end || Capability <- Bad].

no_point_of_small_order_signs_test_() ->
    %% The five ordinates, two of them written in a second way, each with either sign.
    Prime = (1 bsl 255) - 19,
    Order8 = 16#7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7,
    Grants = [esdb_capability:grant(<<"*">>, <<"*">>)],
    [fun() ->
         Weak = esdb_identity:from_public_key(<<(Y + Sign bsl 255):256/little>>),
         Token = esdb_capability:create(Weak, Weak, Grants),
         Options = #{roots => [esdb_identity:did(Weak)], now => Token#capability.iat},
         %% One of eight messages, about, has a signature that holds for a key of order 8.
         [?assertEqual({error, invalid_signature},
                       esdb_gater_verifier:authorize(
                         esdb_capability:encode(
                           Token#capability{nnc = integer_to_binary(N), sig = Signature}, jwt),
                         <<"esdb://a">>, <<"x">>, Options))
          || N <- lists:seq(1, 40),
             Signature <- [<<1, 0:504>>, <<16#58, (binary:copy(<<16#66>>, 31))/binary, 1, 0:248>>]]
     end || Y <- [0, 1, Prime - 1, Prime, Prime + 1, Order8, Prime - Order8], Sign <- [0, 1]].

%%% Handing on

the_audience_of_a_token_hands_on_a_part_of_it_test() ->
    [Root, Service, Worker] = [esdb_identity:generate() || _ <- [1, 2, 3]],
    Parent = esdb_capability:sign(
               esdb_capability:create(Root, Service, [esdb_capability:grant(?ALL, <<"*">>)],
                                      #{ttl => 60}), Root),
    Grant = esdb_capability:grant(<<"esdb://default/stream/a">>, ?ACTION_STREAM_READ),
    Child = esdb_capability:delegate(Parent, Worker, [Grant]),
    ?assertEqual(esdb_identity:did(Service), esdb_capability:issuer(Child)),
    ?assertEqual(esdb_identity:did(Worker), esdb_capability:audience(Child)),
    ?assertEqual([esdb_capability:encode(Parent, jwt)], esdb_capability:proof_chain(Child)),
    ?assertEqual(esdb_capability:expires_at(Parent), esdb_capability:expires_at(Child)),
    ?assertError({invalid_attenuation, _},
                 esdb_capability:delegate(esdb_capability:sign(Child, Service), Root,
                                          [esdb_capability:grant(?ALL, <<"*">>)])),
    ?assertEqual([Grant], esdb_capability:grants(esdb_capability:attenuate(Parent, [Grant]))),
    ?assertEqual(undefined, (esdb_capability:attenuate(Parent, []))#capability.sig),
    ?assertError({invalid_attenuation, _},
                 esdb_capability:attenuate(Parent, [esdb_capability:grant(<<"*">>, <<"*">>)])).

%%% Judging

the_golden_tokens_are_judged_as_the_gateway_judges_them_test_() ->
    {ok, Text} = file:read_file(filename:join(root(), "tests/vectors/capabilities.txt")),
    [<<"root ", Root/binary>>, <<"audience ", Audience/binary>> | Lines] =
        binary:split(Text, <<"\n">>, [global, trim]),
    Resource = esdb_gater_verifier:resource(esdb_channel_events, <<"orders-1">>),
    [{binary_to_list(Name),
      fun() ->
          Judged = esdb_gater_verifier:authorize(Token, Resource, ?ACTION_CHANNEL_PUBLISH,
              #{roots => [Root], audience => [Audience], now => binary_to_integer(At)}),
          ?assertEqual(binary_to_atom(Expected), case Judged of
                                                     {ok, _} -> ok;
                                                     {error, Reason} -> Reason
                                                 end),
          Expected =:= <<"ok">> andalso
              begin
                  %% One form: what was read is written with the same bytes.
                  {ok, Capability} = esdb_capability:decode(Token),
                  ?assertEqual(Token, esdb_capability:encode(Capability, jwt))
              end
      end} || Line <- Lines,
              [Name, At, Expected, Token] <- [binary:split(Line, <<" ">>, [global])]].

root() ->
    Folder = filename:dirname(code:which(?MODULE)),
    up(filename:absname(Folder)).

up(Folder) ->
    case filelib:is_regular(filename:join(Folder, "tests/vectors/capabilities.txt")) of
        true -> Folder;
        false -> up(filename:dirname(Folder))
    end.

the_result_names_the_chain_from_its_root_test() ->
    [Root, Service, Worker] = All = [esdb_identity:generate() || _ <- [1, 2, 3]],
    Grants = [esdb_capability:grant(<<"*">>, <<"*">>)],
    Parent = esdb_capability:sign(esdb_capability:create(Root, Service, Grants), Root),
    Child = esdb_capability:sign(esdb_capability:delegate(Parent, Worker, Grants), Service),
    [RootDid, ServiceDid, _] = [esdb_identity:did(Identity) || Identity <- All],
    Now = erlang:system_time(second),
    ?assertMatch({ok, #verification_result{capability = Child, issuer_chain = [RootDid, ServiceDid],
                                           resource = <<"esdb://a">>, action = <<"x">>,
                                           verified_at = Now}},
                 esdb_gater_verifier:authorize(esdb_capability:encode(Child, jwt), <<"esdb://a">>,
                                               <<"x">>, #{roots => [RootDid], now => Now})).

any_changed_byte_is_refused_test() ->
    Root = esdb_identity:generate(),
    Grants = [esdb_capability:grant(<<"*">>, <<"*">>)],
    Jwt = esdb_capability:encode(esdb_capability:sign(
              esdb_capability:create(Root, Root, Grants), Root), jwt),
    Options = #{roots => [esdb_identity:did(Root)], now => erlang:system_time(second)},
    Judge = fun(Token) -> esdb_gater_verifier:authorize(Token, <<"esdb://a">>, <<"x">>, Options) end,
    ?assertMatch({ok, _}, Judge(Jwt)),
    [begin
         <<Before:At/binary, Byte, After/binary>> = Jwt,
         ?assertMatch({error, _}, Judge(<<Before/binary, (Byte bxor 1), After/binary>>))
     end || At <- lists:seq(0, byte_size(Jwt) - 1)].

%%% Nothing widens

a_covered_grant_matches_nothing_more_test_() ->
    ?FORALL({Wider, Grant, Resource, Action}, {grant(), grant(), resource(), action()},
            not esdb_capability:covers(Wider, Grant)
                orelse not esdb_capability:matches(Grant, Resource, Action)
                orelse esdb_capability:matches(Wider, Resource, Action)).

no_chain_of_delegations_widens_test_() ->
    Root = esdb_identity:generate(),
    Options = fun() ->
                  #{roots => [esdb_identity:did(Root)], now => erlang:system_time(second)}
              end,
    ?FORALL({Links, Resource, Action}, {chain(), resource(), action()},
            begin
                Last = lists:foldl(fun(Grants, Proofs) -> [forced(Root, Grants, Proofs)] end, [], Links),
                case esdb_gater_verifier:authorize(hd(Last), Resource, Action, Options()) of
                    {ok, _} ->
                        lists:all(fun(Grants) ->
                                      lists:any(fun(Grant) ->
                                                    esdb_capability:matches(Grant, Resource, Action)
                                                end, Grants)
                                  end, Links);
                    {error, Reason} ->
                        Reason =:= widened orelse Reason =:= not_granted
                end
            end).

%% Of a holder who does not use `delegate' but writes whatever it likes.
forced(Root, Grants, Proofs) ->
    Token = (esdb_capability:create(Root, Root, Grants))#capability{prf = Proofs},
    esdb_capability:encode(esdb_capability:sign(Token, Root), jwt).

chain() ->
    Grants = proper_types:non_empty(proper_types:resize(3, list(grant()))),
    proper_types:bind(range(1, 4), fun(N) -> proper_types:vector(N, Grants) end, false).

grant() ->
    proper_types:bind({oneof([{literal, <<"*">>}, {scheme, text()}]), oneof([action(), <<"*">>])},
                      fun({{literal, With}, Can}) -> #{with => With, can => Can};
                         ({{scheme, Text}, Can}) -> #{with => <<"esdb://", Text/binary>>, can => Can}
                      end, false).

resource() ->
    proper_types:bind(text(), fun(Text) -> <<"esdb://", Text/binary>> end, false).

text() ->
    proper_types:bind(proper_types:resize(4, list(oneof("ab*"))), fun list_to_binary/1, false).

action() -> oneof([<<"read">>, <<"write">>]).

%%% The mode

the_mode_is_that_of_the_node_unless_the_channel_asks_test_() ->
    Restored = [{Key, application:get_env(erl_esdb_gater, Key)} || Key <- [capability_mode, capabilities]],
    {setup, fun() -> [application:unset_env(erl_esdb_gater, Key) || {Key, _} <- Restored] end,
     fun(_) -> [case Value of
                    {ok, Set} -> application:set_env(erl_esdb_gater, Key, Set);
                    undefined -> application:unset_env(erl_esdb_gater, Key)
                end || {Key, Value} <- Restored] end,
     [fun() ->
          ?assertEqual(disabled, esdb_gater_config:capability_mode()),
          [begin
               ok = esdb_gater_config:set_capability_mode(Mode),
               ?assertEqual(Mode, esdb_gater_config:capability_mode()),
               ?assertEqual(Mode, esdb_gater_config:effective_capability_mode(false)),
               ?assertEqual(required, esdb_gater_config:effective_capability_mode(true))
           end || Mode <- [optional, required, disabled]],
          ?assertError(function_clause, esdb_gater_config:set_capability_mode(perhaps))
      end]}.
