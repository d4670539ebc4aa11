%%% @doc Capability tokens, modelled on UCAN. A principal, named by a `did:key', grants another
%%% principal actions on resources for a limited time. The holder of a token may delegate what it
%%% grants or a part of it, and never more.
%%%
%%% ```
%%% Root = esdb_identity:generate(),
%%% Service = esdb_identity:generate(),
%%% All = [esdb_capability:grant(<<"esdb://default/channel/*">>, <<"*">>)],
%%% Token = esdb_capability:sign(esdb_capability:create(Root, Service, All), Root),
%%% ok = esdb_channel_server:publish(orders, <<"eu">>, Message, Token).
%%% '''
%%% A resource that ends with `*' stands for all resources that begin with the text before it. An
%%% action stands for itself, and `*' for all actions.
%%%
%%% The signature covers the token's form as a JWT (RFC 7515, compact, EdDSA): the header and the
%%% claims as JSON with their keys in ascending order, in base64url without padding. A token that is
%%% derived from another token contains that token, as a JWT, as its only proof.
%%% @end
-module(esdb_capability).

-include("../include/esdb_capability_types.hrl").

-export([create/3, create/4, sign/2, encode/1, encode/2, decode/1, delegate/3, delegate/4, grant/2,
         attenuate/2, issuer/1, audience/1, grants/1, expires_at/1, is_expired/1, proof_chain/1]).
-export([covers/2, matches/3, jwt/1, parts/1]).

-export_type([capability/0, grant/0, options/0]).

-type capability() :: #capability{}.
-type grant() :: #{with := binary(), can := binary()}.
-type options() :: #{ttl => pos_integer(), not_before => integer(), nonce => binary(),
                     facts => #{binary() => esdb_gater_json:value()}}.
%% `ttl' is in seconds, from 60 to 86400, by default 900; `not_before' is in Unix seconds, by
%% default now.

-type party() :: esdb_identity:identity() | esdb_identity:did().

-define(MAX_BYTES, 32768).

%% @doc Returns an unsigned token in which the issuer grants the audience.
-spec create(party(), party(), [grant()]) -> capability().
create(Issuer, Audience, Grants) -> create(Issuer, Audience, Grants, #{}).

%% @doc Does the same as `create/3', with options.
-spec create(party(), party(), [grant()], options()) -> capability().
create(Issuer, Audience, Grants, Options) ->
    [] = maps:keys(maps:without([ttl, not_before, nonce, facts], Options)),
    Now = erlang:system_time(second),
    Random = base64url(crypto:strong_rand_bytes(12)),
    #capability{iss = did(Issuer), aud = did(Audience), iat = Now,
                nbf = maps:get(not_before, Options, Now),
                exp = Now + ttl(Options),
                nnc = maps:get(nonce, Options, Random),
                att = [checked(Grant) || Grant <- Grants],
                fct = maps:get(facts, Options, #{})}.

ttl(Options) ->
    case maps:get(ttl, Options, ?DEFAULT_TOKEN_TTL_SECS) of
        Ttl when is_integer(Ttl), Ttl >= ?MIN_TOKEN_TTL_SECS, Ttl =< ?MAX_TOKEN_TTL_SECS -> Ttl;
        Ttl -> error({invalid_ttl, Ttl})
    end.

did(#identity{did = Did}) -> did(Did);
did(Did) ->
    case esdb_identity:is_valid_did(Did) of
        true -> Did;
        false -> error({invalid_did, Did})
    end.

%% @doc Returns the grant of an action on a resource.
-spec grant(Resource :: binary(), Action :: binary()) -> grant().
grant(Resource, Action) -> checked(#{with => Resource, can => Action}).

checked(Grant) ->
    case is_grant(Grant) of
        true -> Grant;
        false -> error({invalid_grant, Grant})
    end.

is_grant(#{with := Resource, can := Action} = Grant) ->
    map_size(Grant) =:= 2 andalso is_text(Action) andalso is_resource(Resource);
is_grant(_) ->
    false.

is_resource(<<"*">>) -> true;
is_resource(<<"esdb://", _/binary>> = Resource) -> is_text(Resource);
is_resource(_) -> false.

is_text(Text) ->
    is_binary(Text) andalso Text =/= <<>> andalso is_list(unicode:characters_to_list(Text)).

%% @doc Signs a token with the private key of its issuer. Raises `wrong_key' for another key.
-spec sign(capability(), PrivateKey :: binary() | esdb_identity:identity()) -> capability().
sign(Capability, #identity{private_key = Key}) ->
    sign(Capability, Key);
sign(#capability{iss = Issuer} = Capability, <<_:32/binary>> = Key) ->
    {Public, _} = crypto:generate_key(eddsa, ed25519, Key),
    {ok, Public} =:= esdb_identity:public_key_from_did(Issuer) orelse error(wrong_key),
    Signature = crypto:sign(eddsa, none, signed_part(Capability), [Key, ed25519]),
    Capability#capability{sig = Signature}.

%% @doc Returns a token as an external term, for programs in Erlang.
-spec encode(capability()) -> binary().
encode(Capability) -> encode(Capability, binary).

%% @doc Returns a token as an external term or as a JWT. A JWT requires a signed token.
-spec encode(capability(), binary | jwt) -> binary().
encode(#capability{} = Capability, binary) ->
    term_to_binary(Capability, [{minor_version, 2}]);
encode(#capability{sig = <<_:64/binary>> = Signature} = Capability, jwt) ->
    <<(signed_part(Capability))/binary, $., (base64url(Signature))/binary>>;
encode(#capability{sig = undefined}, jwt) ->
    error(not_signed).

signed_part(#capability{alg = Alg, typ = Typ} = Capability) ->
    Header = esdb_gater_json:encode(#{<<"alg">> => Alg, <<"typ">> => Typ}),
    Claims = esdb_gater_json:encode(claims(Capability)),
    <<(base64url(Header))/binary, $., (base64url(Claims))/binary>>.

%% A missing value is left out, so that one token has one form.
claims(#capability{iss = Iss, aud = Aud, nbf = Nbf, exp = Exp, iat = Iat, nnc = Nnc, att = Att,
                   fct = Fct, prf = Prf}) ->
    All = #{<<"iss">> => Iss, <<"aud">> => Aud, <<"nbf">> => Nbf, <<"exp">> => Exp,
            <<"iat">> => Iat, <<"nnc">> => Nnc, <<"fct">> => Fct, <<"prf">> => Prf,
            <<"att">> => [#{<<"with">> => With, <<"can">> => Can}
                          || #{with := With, can := Can} <- Att]},
    maps:filter(fun(<<"att">>, _) -> true;
                   (_, Value) -> Value =/= undefined andalso Value =/= [] andalso Value =/= #{}
                end, All).

%% @doc Decodes a token in either form without verifying it.
-spec decode(binary()) -> {ok, capability()} | {error, malformed_token | token_too_large}.
decode(Token) when is_binary(Token), byte_size(Token) > ?MAX_BYTES ->
    {error, token_too_large};
%% A compressed term could have any size once it is decompressed.
decode(<<131, 80, _/binary>>) ->
    {error, malformed_token};
decode(<<131, _/binary>> = Term) ->
    try binary_to_term(Term, [safe]) of
        #capability{} = Capability -> well_formed(Capability);
        _ -> {error, malformed_token}
    catch
        error:badarg -> {error, malformed_token}
    end;
decode(Jwt) when is_binary(Jwt) ->
    case parts(Jwt) of
        {ok, Capability, _} -> {ok, Capability};
        {error, _} = Error -> Error
    end;
decode(_) ->
    {error, malformed_token}.

%% The token is decoded from the JSON that would be signed, since not every term has such a form.
well_formed(#capability{sig = Sig} = Capability) ->
    try
        {ok, Json} = esdb_gater_json:decode(esdb_gater_json:encode(claims(Capability))),
        {ok, Same} = claims_of(Json),
        Capability = Same#capability{sig = Sig},
        true = is_signature(Sig),
        {ok, Capability}
    catch
        error:_ -> {error, malformed_token}        % an element that is no claim
    end.

is_signature(undefined) -> true;
is_signature(Sig) -> is_binary(Sig) andalso byte_size(Sig) =:= 64.

%% @private
%% @doc Decodes a JWT. Returns its record and the bytes that are signed.
-spec parts(binary()) ->
          {ok, capability(), Signed :: binary()} | {error, malformed_token | token_too_large}.
parts(Jwt) when byte_size(Jwt) > ?MAX_BYTES ->
    {error, token_too_large};
parts(Jwt) ->
    maybe_parts(binary:split(Jwt, <<".">>, [global]), Jwt).

maybe_parts([Header, Claims, Signature], Jwt) ->
    case {object(Header), object(Claims), from_base64url(Signature)} of
        {{ok, #{<<"alg">> := <<"EdDSA">>, <<"typ">> := <<"UCAN">>} = Head}, {ok, Object},
         {ok, <<_:64/binary>> = Sig}} when map_size(Head) =:= 2 ->
            case claims_of(Object) of
                {ok, Capability} ->
                    Signed = binary:part(Jwt, 0, byte_size(Header) + 1 + byte_size(Claims)),
                    {ok, Capability#capability{sig = Sig}, Signed};
                error ->
                    {error, malformed_token}
            end;
        _ ->
            {error, malformed_token}
    end;
maybe_parts(_, _) ->
    {error, malformed_token}.

object(Encoded) ->
    case from_base64url(Encoded) of
        {ok, Json} -> esdb_gater_json:decode(Json);
        error -> error
    end.

claims_of(#{<<"iss">> := Iss, <<"aud">> := Aud, <<"exp">> := Exp, <<"att">> := Att} = Claims)
  when is_integer(Exp), is_list(Att) ->
    Grants = [grant_of(Grant) || Grant <- Att],
    Capability = #capability{iss = Iss, aud = Aud, exp = Exp, att = Grants,
                             nbf = maps:get(<<"nbf">>, Claims, undefined),
                             iat = maps:get(<<"iat">>, Claims, undefined),
                             nnc = maps:get(<<"nnc">>, Claims, undefined),
                             fct = maps:get(<<"fct">>, Claims, #{}),
                             prf = maps:get(<<"prf">>, Claims, [])},
    Known = [<<"iss">>, <<"aud">>, <<"exp">>, <<"att">>, <<"nbf">>, <<"iat">>, <<"nnc">>, <<"fct">>,
             <<"prf">>],
    case lists:all(fun is_grant/1, Grants) andalso maps:without(Known, Claims) =:= #{}
             andalso are_claims(Capability) of
        true -> {ok, Capability};
        false -> error
    end;
claims_of(_) ->
    error.

grant_of(#{<<"with">> := With, <<"can">> := Can} = Grant) when map_size(Grant) =:= 2 ->
    #{with => With, can => Can};
grant_of(_) ->
    error.

are_claims(#capability{iss = Iss, aud = Aud, nbf = Nbf, iat = Iat, nnc = Nnc, fct = Fct,
                       prf = Prf}) ->
    is_text(Iss) andalso is_text(Aud) andalso is_map(Fct) andalso is_list(Prf)
        andalso lists:all(fun is_text/1, Prf)
        andalso lists:all(fun(Time) -> Time =:= undefined orelse is_integer(Time) end, [Nbf, Iat])
        andalso (Nnc =:= undefined orelse is_text(Nnc)).

%% @doc Returns an unsigned token in which the audience of a signed token grants another party all
%% or a part of what it was granted. Raises `{invalid_attenuation, Grant}' for a greater grant.
-spec delegate(capability(), party(), [grant()]) -> capability().
delegate(Parent, Audience, Grants) -> delegate(Parent, Audience, Grants, #{}).

%% @doc Does the same as `delegate/3', with options. The token does not outlive its parent.
-spec delegate(capability(), party(), [grant()], options()) -> capability().
delegate(#capability{aud = Issuer, exp = ParentExp} = Parent, Audience, Grants, Options) ->
    Token = attenuate(create(Issuer, Audience, [], Options), Parent, Grants),
    Token#capability{exp = min(Token#capability.exp, ParentExp), prf = [encode(Parent, jwt)]}.

%% @doc Returns the token, unsigned, with fewer grants. Raises `{invalid_attenuation, Grant}' for a
%% grant that no grant of the token covers.
-spec attenuate(capability(), [grant()]) -> capability().
attenuate(Capability, Grants) ->
    attenuate(Capability#capability{sig = undefined}, Capability, Grants).

attenuate(Token, #capability{att = Granted}, Grants) ->
    lists:foreach(fun(Grant) ->
                      lists:any(fun(Wider) -> covers(Wider, checked(Grant)) end, Granted)
                          orelse error({invalid_attenuation, Grant})
                  end, Grants),
    Token#capability{att = Grants}.

%% @doc Returns the DID of the identity that grants.
-spec issuer(capability()) -> esdb_identity:did() | undefined.
issuer(#capability{iss = Issuer}) -> Issuer.

%% @doc Returns the DID of the identity to which the token grants.
-spec audience(capability()) -> esdb_identity:did() | undefined.
audience(#capability{aud = Audience}) -> Audience.

%% @doc Returns the grants of the token.
-spec grants(capability()) -> [grant()] | undefined.
grants(#capability{att = Grants}) -> Grants.

%% @doc Returns the end of the validity of the token, in Unix seconds.
-spec expires_at(capability()) -> integer() | undefined.
expires_at(#capability{exp = Exp}) -> Exp.

%% @doc Returns whether the token has expired.
-spec is_expired(capability()) -> boolean().
is_expired(#capability{exp = Exp}) -> erlang:system_time(second) >= Exp.

%% @doc Returns the tokens from which a token is derived, as JWTs: its parent, which contains its
%% own proof.
-spec proof_chain(capability()) -> [binary()].
proof_chain(#capability{prf = Proofs}) -> Proofs.

%%% Functions for verifiers

%% @private
%% @doc Returns whether a grant allows everything that another one allows.
-spec covers(grant(), grant()) -> boolean().
covers(#{with := Wider, can := WiderAction}, #{with := Resource, can := Action}) ->
    covers_action(WiderAction, Action) andalso covers_resource(pattern(Wider), pattern(Resource)).

covers_action(<<"*">>, _) -> true;
covers_action(Wider, Action) -> Wider =:= Action.

covers_resource({prefix, Prefix}, {_, Text}) -> begins(Text, Prefix);
covers_resource({exact, Text}, {exact, Other}) -> Text =:= Other;
covers_resource({exact, _}, {prefix, _}) -> false.

%% @private
%% @doc Returns whether a grant allows an action on a resource. The name of the resource is compared
%% literally.
-spec matches(grant(), Resource :: binary(), Action :: binary()) -> boolean().
matches(#{with := Granted, can := GrantedAction}, Resource, Action) ->
    covers_action(GrantedAction, Action) andalso
        covers_resource(pattern(Granted), {exact, Resource}).

pattern(Resource) ->
    case binary:last(Resource) of
        $* -> {prefix, binary:part(Resource, 0, byte_size(Resource) - 1)};
        _ -> {exact, Resource}
    end.

begins(Text, Prefix) ->
    Size = byte_size(Prefix),
    case Text of
        <<Prefix:Size/binary, _/binary>> -> true;
        _ -> false
    end.

%% @private
%% @doc Returns a token in any form as a JWT.
-spec jwt(term()) -> {ok, binary()} | {error, malformed_token | token_too_large}.
jwt(#capability{} = Capability) -> jwt(encode(Capability, binary));
jwt(<<131, _/binary>> = Term) ->
    case decode(Term) of
        {ok, #capability{sig = undefined}} -> {error, malformed_token};
        {ok, Capability} -> bounded(encode(Capability, jwt));
        {error, _} = Error -> Error
    end;
jwt(Jwt) when is_binary(Jwt) -> bounded(Jwt);
jwt(_) -> {error, malformed_token}.

bounded(Jwt) when byte_size(Jwt) > ?MAX_BYTES -> {error, token_too_large};
bounded(Jwt) -> {ok, Jwt}.

base64url(Bytes) ->
    << <<(case C of $+ -> $-; $/ -> $_; _ -> C end)>> || <<C>> <= base64:encode(Bytes), C =/= $= >>.

%% Only the canonical form is accepted: no padding, no white space, and no unused bits that are set.
from_base64url(Text) ->
    Padding = binary:copy(<<"=">>, (4 - byte_size(Text) rem 4) rem 4),
    Standard = << <<(case C of $- -> $+; $_ -> $/; $+ -> $!; $/ -> $!; _ -> C end)>>
                  || <<C>> <= Text >>,
    try base64:decode(<<Standard/binary, Padding/binary>>) of
        Bytes ->
            case base64url(Bytes) of
                Text -> {ok, Bytes};
                _ -> error
            end
    catch
        error:_ -> error
    end.
