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
     {"two_proofs", ?NOW, malformed_token, token(2, 9, [{One, Publish}], [Holder, Holder])}].

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
