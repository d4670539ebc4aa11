#!/usr/bin/env escript
%%! -pa _build/default/lib/erl_esdb_gater/ebin
%% Writes capabilities.txt: see README.md. The keys are fixed, so the bytes are, too.
-mode(compile).

-define(NOW, 1800000000).

main(_) ->
    File = filename:join(filename:dirname(escript:script_name()), "capabilities.txt"),
    Lines = [["root ", did(1)], ["audience ", did(9)]
             | [[Name, " ", integer_to_list(At), " ", atom_to_list(Judged), " ", Token]
                || {Name, At, Judged, Token} <- tokens()]],
    ok = file:write_file(File, [[Line, "\n"] || Line <- Lines]).

tokens() ->
    Events = <<"esdb://default/channel/esdb_channel_events/*">>,
    Orders = <<"esdb://default/channel/esdb_channel_events/orders-*">>,
    One = <<"esdb://default/channel/esdb_channel_events/orders-1">>,
    Publish = <<"channel/publish">>,
    Root = token(1, 9, [{Events, Publish}], []),
    Holder = token(1, 2, [{Orders, Publish}], []),
    Narrower = token(2, 9, [{One, Publish}], [Holder]),
    [{"root", ?NOW, ok, Root},
     {"facts_and_texts", ?NOW, ok,
      jwt(1, claims(1, 9, [{Events, <<"*">>}], [], #{<<"é\"\\\n"/utf8>> => [1, true, null, <<"ü"/utf8>>]}))},
     {"everything", ?NOW, ok, token(1, 9, [{<<"*">>, <<"*">>}], [])},
     {"narrower", ?NOW, ok, Narrower},
     {"three_tokens", ?NOW, ok,
      token(3, 9, [{One, Publish}], [token(2, 3, [{Orders, Publish}], [Holder])])},
     {"wider_resource", ?NOW, widened, token(2, 9, [{Events, Publish}], [Holder])},
     {"wider_action", ?NOW, widened, token(2, 9, [{One, <<"*">>}], [Holder])},
     {"stolen", ?NOW, broken_chain, token(3, 9, [{One, Publish}], [Holder])},
     {"other_root", ?NOW, untrusted_issuer, token(4, 9, [{Events, Publish}], [])},
     {"forged", ?NOW, invalid_signature, jwt(4, claims(1, 9, [{Events, Publish}], [], #{}))},
     {"forged_child", ?NOW, invalid_signature, jwt(4, claims(2, 9, [{One, Publish}], [Holder], #{}))},
     {"last_second", ?NOW + 899, ok, Root},
     {"expired", ?NOW + 900, expired, Root},
     {"leeway", ?NOW - 5, ok, Root},
     {"not_yet", ?NOW - 6, not_yet_valid, Root},
     {"other_audience", ?NOW, wrong_audience, Holder},
     {"other_action", ?NOW, not_granted, token(1, 9, [{Events, <<"channel/subscribe">>}], [])},
     {"other_topic", ?NOW, not_granted,
      token(1, 9, [{<<"esdb://default/channel/esdb_channel_events/orders">>, Publish}], [])},
     {"no_grant", ?NOW, not_granted, token(1, 9, [], [])},
     {"two_proofs", ?NOW, malformed_token, token(2, 9, [{One, Publish}], [Holder, Holder])},
     {"weak_key", ?NOW, invalid_signature, by_weak_key([{One, Publish}])},
     {"late_child_of_early_parent", ?NOW + 900, expired,
      jwt(2, late(claims(2, 9, [{One, Publish}], [Holder], #{})))}
     | [{Name, ?NOW, malformed_token, raw(Claims)}
        || {Name, Claims} <- malformed(binary_to_list(One))]].

late(Claims) -> setelement(6, setelement(7, Claims, ?NOW + 2000), ?NOW + 1000).

%% What a lenient reader of JSON would take for a token.
malformed(One) ->
    Parties = lists:flatten(io_lib:format("\"aud\":\"~s\",\"iss\":\"~s\"", [did(9), did(1)])),
    Grant = "{\"can\":\"*\",\"with\":\"" ++ One ++ "\"}",
    Times = "\"exp\":1800000900,\"nbf\":1800000000",
    Object = fun(Parts) -> "{" ++ lists:flatten(lists:join(",", Parts)) ++ "}" end,
    With = fun(More) -> Object([Parties, Times, "\"att\":[" ++ Grant ++ "]" | More]) end,
    [{"values_without_keys", lists:flatten(
          io_lib:format("[\"~s\",\"~s\",1800000900,[~s]]", [did(1), did(9), Grant]))},
     {"grant_without_keys", Object([Parties, Times, "\"att\":[[\"" ++ One ++ "\",\"*\"]]"])},
     {"beginning_of_null", Object([Parties, "\"exp\":1800000900,\"nbf\":null",
                                   "\"att\":[" ++ Grant ++ "]"])},
     {"end_twice", With(["\"exp\":1800000901"])},
     {"end_as_fraction", Object([Parties, "\"exp\":1800000900.0", "\"att\":[" ++ Grant ++ "]"])},
     {"end_beyond_64_bits", Object([Parties, "\"exp\":9223372036854775808",
                                    "\"att\":[" ++ Grant ++ "]"])},
     {"no_end", Object([Parties, "\"att\":[" ++ Grant ++ "]"])},
     {"empty_nonce", With(["\"nnc\":\"\""])},
     {"nonce_of_null", With(["\"nnc\":null"])},
     {"fact_twice", With(["\"fct\":{\"a\":{\"b\":1,\"b\":1}}"])},
     {"fact_with_fraction", With(["\"fct\":{\"a\":[1.5]}"])},
     {"fact_beyond_64_bits", With(["\"fct\":{\"a\":9223372036854775808}"])},
     {"fact_of_minus_zero", With(["\"fct\":{\"a\":-0}"])}].

%% Claims in any form, signed by the root.
raw(Claims) ->
    Header = "{\"alg\":\"EdDSA\",\"typ\":\"UCAN\"}",
    Signed = <<(base64url(Header))/binary, $., (base64url(Claims))/binary>>,
    Signature = crypto:sign(eddsa, none, Signed, [key(1), ed25519]),
    <<Signed/binary, $., (base64url(Signature))/binary>>.

base64url(Bytes) ->
    << <<(case C of $+ -> $-; $/ -> $_; _ -> C end)>> || <<C>> <= base64:encode(Bytes), C =/= $= >>.

%% The root has granted something to the key that is the neutral point, for which this signature,
%% the base point and 1, holds with every message.
by_weak_key(Grants) ->
    Weak = esdb_identity:did(esdb_identity:from_public_key(<<1, 0:248>>)),
    Parent = jwt(1, setelement(5, claims(1, 9, Grants, [], #{}), Weak)),
    Child = setelement(4, claims(1, 9, Grants, [Parent], #{}), Weak),
    esdb_capability:encode(
      setelement(13, Child, <<16#58, (binary:copy(<<16#66>>, 31))/binary, 1, 0:248>>), jwt).

token(Issuer, Audience, Grants, Proofs) ->
    jwt(Issuer, claims(Issuer, Audience, Grants, Proofs, #{})).

claims(Issuer, Audience, Grants, Proofs, Facts) ->
    {capability, <<"EdDSA">>, <<"UCAN">>, did(Issuer), did(Audience), ?NOW, ?NOW + 900, ?NOW,
     <<"nonce">>, [#{with => With, can => Can} || {With, Can} <- Grants], Facts, Proofs, undefined}.

%% Signed with a key that need not be the issuer's.
jwt(Signer, Claims) ->
    Unsigned = esdb_capability:encode(setelement(13, Claims, <<0:512>>), jwt),
    [Header, Payload, _] = binary:split(Unsigned, <<".">>, [global]),
    Signed = <<Header/binary, ".", Payload/binary>>,
    Signature = crypto:sign(eddsa, none, Signed, [key(Signer), ed25519]),
    esdb_capability:encode(setelement(13, Claims, Signature), jwt).

key(N) -> binary:copy(<<N>>, 32).

did(N) ->
    {Public, _} = crypto:generate_key(eddsa, ed25519, key(N)),
    esdb_identity:did(esdb_identity:from_public_key(Public)).
