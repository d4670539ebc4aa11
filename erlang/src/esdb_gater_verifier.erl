%%% @private
%%% @doc Verifies capability tokens by the same rules as the gateway program
%%% (native/gater-core/src/capability).
%%%
%%% A token is accepted if it and all tokens that it is derived from are signed by their issuers and
%%% are valid now, if each was issued by the audience of the token that it is derived from and
%%% grants no more than that, and if a root key has issued the first one.
%%% @end
-module(esdb_gater_verifier).

-include("../include/esdb_capability_types.hrl").

-export([admit/4, authorize/4, resource/2]).

-export_type([options/0, reason/0]).

-type options() :: #{roots := [esdb_identity:did()],
                     audience => [esdb_identity:did()],
                     now := integer()}.
%% `audience' lists the accepted audiences; an empty list accepts any. `now' is in Unix seconds.

-type reason() :: malformed_token | token_too_large | chain_too_long | broken_chain | widened
                | untrusted_issuer | invalid_signature | expired | not_yet_valid | wrong_audience
                | not_granted.

-define(MAX_CHAIN, 8).
-define(MAX_GRANTS, 64).
%% The greatest difference in seconds between the clocks of two hosts.
-define(LEEWAY, 5).
%% Constants of the curve: the field, and the ordinate of a point of order 8.
-define(PRIME, ((1 bsl 255) - 19)).
-define(ORDER_8, 16#7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7).

%% @doc Returns whether this node admits a request to a topic of a channel that it hosts, according
%% to the roots and the audience of its configuration.
-spec admit(esdb_gater_config:capability_mode(), none | {token, term()},
            Resource :: binary(), Action :: binary()) ->
          ok | {error, {unauthorized, reason() | capability_required}}.
admit(disabled, _Token, _Resource, _Action) -> ok;
admit(optional, none, _Resource, _Action) -> ok;
admit(required, none, _Resource, _Action) -> {error, {unauthorized, capability_required}};
admit(_Mode, {token, Token}, Resource, Action) ->
    Options = (options())#{now => erlang:system_time(second)},
    case esdb_capability:jwt(Token) of
        {ok, Jwt} ->
            case authorize(Jwt, Resource, Action, Options) of
                {ok, _} -> ok;
                {error, Reason} -> {error, {unauthorized, Reason}}
            end;
        {error, Reason} ->
            {error, {unauthorized, Reason}}
    end.

options() ->
    Set = application:get_env(erl_esdb_gater, capabilities, []),
    Capabilities = case is_map(Set) of
                       true -> Set;
                       false -> maps:from_list(Set)
                   end,
    maps:merge(#{roots => []}, maps:with([roots, audience], Capabilities)).

%% @doc Returns the name of the resource of a topic of a channel.
-spec resource(atom(), binary()) -> binary().
resource(Channel, Topic) ->
    <<?ESDB_URI_SCHEME/binary, "default/channel/", (atom_to_binary(Channel))/binary, $/,
      Topic/binary>>.

%% @doc Checks that a token, a JWT, allows an action on a resource.
-spec authorize(binary(), Resource :: binary(), Action :: binary(), options()) ->
          {ok, #verification_result{}} | {error, reason()}.
authorize(Token, Resource, Action, #{roots := Roots, now := Now} = Options) ->
    try
        [{Leaf, _} | _] = Chain = chain(Token, []),
        Capabilities = [Capability || {Capability, _} <- Chain],
        Root = lists:last(Capabilities),
        require(lists:member(Root#capability.iss, Roots), untrusted_issuer),
        lists:foreach(fun check_signature/1, lists:reverse(Chain)),
        lists:foreach(fun(Capability) -> check_end(Capability, Now) end, Capabilities),
        lists:foreach(fun(Capability) -> check_beginning(Capability, Now) end, Capabilities),
        require(is_audience(Leaf, maps:get(audience, Options, [])), wrong_audience),
        require(lists:any(fun(Grant) -> esdb_capability:matches(Grant, Resource, Action) end,
                          Leaf#capability.att), not_granted),
        {ok, #verification_result{capability = Leaf,
                                  issuer_chain = [Iss || #capability{iss = Iss}
                                                             <- lists:reverse(Capabilities)],
                                  resource = Resource, action = Action, verified_at = Now}}
    catch
        throw:{refused, Reason} -> {error, Reason}
    end.

%% Returns the token, then the token that it is derived from, and so on.
chain(_Token, Before) when length(Before) >= ?MAX_CHAIN ->
    throw({refused, chain_too_long});
chain(Token, Before) ->
    case esdb_capability:parts(Token) of
        {ok, Capability, Signed} ->
            require(length(Capability#capability.att) =< ?MAX_GRANTS, malformed_token),
            require(length(Capability#capability.prf) =< 1, malformed_token),
            require(is_derived(Capability, Before), broken_chain),
            require(is_covered(Before, Capability), widened),
            proofs(Capability#capability.prf, [{Capability, Signed} | Before]);
        {error, Reason} ->
            throw({refused, Reason})
    end.

proofs([], Chain) -> lists:reverse(Chain);
proofs([Proof], Chain) -> chain(Proof, Chain).

is_derived(_Parent, []) -> true;
is_derived(#capability{aud = Audience}, [{#capability{iss = Issuer}, _} | _]) ->
    Audience =:= Issuer.

is_covered([], _Parent) -> true;
is_covered([{#capability{att = Grants}, _} | _], #capability{att = Granted}) ->
    lists:all(fun(Grant) ->
                  lists:any(fun(Wider) -> esdb_capability:covers(Wider, Grant) end, Granted)
              end, Grants).

check_signature({#capability{iss = Issuer, sig = <<R:32/binary, _/binary>> = Signature}, Signed}) ->
    case esdb_identity:public_key_from_did(Issuer) of
        {ok, Key} ->
            require(not is_weak(Key) andalso not is_weak(R)
                        andalso crypto:verify(eddsa, none, Signed, Signature, [Key, ed25519]),
                    invalid_signature);
        {error, _} ->
            throw({refused, invalid_signature})
    end.

%% Returns whether a point is one of the eight points of small order, in any of their encodings.
%% Signatures under such a key need no private key, and the crypto application of OTP accepts them.
is_weak(<<Bytes:31/binary, Last>>) ->
    Y = binary:decode_unsigned(<<Bytes/binary, (Last band 16#7f)>>, little) rem ?PRIME,
    lists:member(Y, [0, 1, ?PRIME - 1, ?ORDER_8, ?PRIME - ?ORDER_8]).

check_end(#capability{exp = Exp}, Now) -> require(Exp > Now, expired).

check_beginning(#capability{nbf = undefined}, _Now) -> ok;
check_beginning(#capability{nbf = Nbf}, Now) -> require(Nbf =< Now + ?LEEWAY, not_yet_valid).

is_audience(_Leaf, []) -> true;
is_audience(#capability{aud = Audience}, Audiences) -> lists:member(Audience, Audiences).

require(true, _Reason) -> ok;
require(false, Reason) -> throw({refused, Reason}).
