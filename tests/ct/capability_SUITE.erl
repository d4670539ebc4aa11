%% @doc Gateways that ask for capability tokens, by the shim and without any library of ours.
-module(capability_SUITE).

-include_lib("stdlib/include/assert.hrl").

-include("esdb_capability_types.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([nobody_publishes_or_subscribes_without_a_token/1, a_token_of_a_root_is_accepted/1,
         a_narrower_token_is_accepted_for_what_it_grants/1, a_widened_token_is_refused/1,
         an_expired_token_is_refused/1, a_token_for_another_audience_is_refused/1,
         a_tampered_token_is_refused/1, a_token_of_somebody_else_is_refused/1,
         a_subscriber_without_a_token_gets_nothing_beside_one_with/1,
         a_subscription_outlives_a_bad_renewal_and_ends_when_asked/1,
         a_subscription_with_a_token_is_made_again_by_the_next_gateway/1,
         a_plain_node_sends_its_token_itself/1, refusals_are_counted/1,
         where_tokens_are_optional_only_bad_ones_are_refused/1,
         a_channel_of_the_users_own_asks_for_tokens/1,
         roots_are_needed/1]).
%% A channel that asks for tokens.
-export([requires_capability/0]).

-define(CHANNEL, esdb_channel_events).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [nobody_publishes_or_subscribes_without_a_token, a_token_of_a_root_is_accepted,
     a_narrower_token_is_accepted_for_what_it_grants, a_widened_token_is_refused,
     an_expired_token_is_refused, a_token_for_another_audience_is_refused,
     a_tampered_token_is_refused, a_token_of_somebody_else_is_refused,
     a_subscriber_without_a_token_gets_nothing_beside_one_with,
     a_subscription_outlives_a_bad_renewal_and_ends_when_asked,
     a_subscription_with_a_token_is_made_again_by_the_next_gateway,
     a_plain_node_sends_its_token_itself, refusals_are_counted,
     where_tokens_are_optional_only_bad_ones_are_refused,
     a_channel_of_the_users_own_asks_for_tokens, roots_are_needed].

init_per_suite(Config) ->
    World = gater_harness:new(),
    [Root, Service, Holder] = Identities = [esdb_identity:generate() || _ <- [1, 2, 3]],
    [RootDid, ServiceDid, _] = [esdb_identity:did(Identity) || Identity <- Identities],
    Capabilities = fun(Mode) ->
        iolist_to_binary(io_lib:format("[capabilities]\nmode = \"~s\"\nroots = [\"~s\"]\n"
                                       "audience = [\"~s\"]\n", [Mode, RootDid, ServiceDid]))
    end,
    Gateway = gater_harness:gateway(World, #{config => Capabilities("required")}),
    Optional = gater_harness:gateway(World, #{config => Capabilities("optional")}),
    Shim = gater_shim:node(World, [?MODULE]),
    ok = gater_shim:start(Shim, gater_shim:named([Gateway])),
    [{world, World}, {gateway, Gateway}, {optional, Optional}, {shim, Shim},
     {capabilities, Capabilities}, {root, Root}, {service, Service}, {holder, Holder} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

%%% Judging

nobody_publishes_or_subscribes_without_a_token(Config) ->
    {_, Pid} = gater_harness:agent(value(shim, Config)),
    Required = {error, {unauthorized, capability_required}},
    ?assertEqual(Required, on(Config, fun() -> esdb_channel_server:publish(?CHANNEL, <<"t">>, m) end)),
    ?assertEqual(Required, on(Config, fun() -> esdb_channel_server:subscribe(?CHANNEL, <<"t">>, Pid) end)),
    [?assertEqual({error, {unauthorized, malformed_token}}, publish(Config, <<"t">>, Token))
     || Token <- [<<>>, <<"none">>, undefined, <<131, 106>>]].

a_token_of_a_root_is_accepted(Config) ->
    Token = root_token(Config, service, [{<<"*">>, <<"*">>}]),
    %% In each of its forms.
    [begin
         Agent = subscriber(Config, Topic, Form),
         ok = publish(Config, Topic, Form),
         gater_harness:until(fun() -> gater_harness:messages(Agent) =/= [] end),
         ?assertEqual([{channel_message, ?CHANNEL, Topic, m}], gater_harness:messages(Agent))
     end || {Topic, Form} <- [{<<"record">>, Token}, {<<"term">>, esdb_capability:encode(Token)},
                              {<<"jwt">>, esdb_capability:encode(Token, jwt)}]].

a_narrower_token_is_accepted_for_what_it_grants(Config) ->
    Narrower = narrower(Config, [{channel(<<"orders-1">>), ?ACTION_CHANNEL_PUBLISH}]),
    ok = publish(Config, <<"orders-1">>, Narrower),
    NotGranted = {error, {unauthorized, not_granted}},
    ?assertEqual(NotGranted, publish(Config, <<"orders-2">>, Narrower)),
    ?assertEqual(NotGranted, subscribe(Config, <<"orders-1">>, self_of(Config), Narrower)).

a_widened_token_is_refused(Config) ->
    [?assertEqual({error, {unauthorized, widened}}, publish(Config, <<"orders-1">>, widened(Config, Grant)))
     || Grant <- [{channel(<<"*">>), ?ACTION_CHANNEL_PUBLISH}, {channel(<<"orders-1">>), <<"*">>},
                  {<<"*">>, <<"*">>}]].

an_expired_token_is_refused(Config) ->
    Token = value(root, Config),
    Expired = (unsigned(Config, service, [{<<"*">>, <<"*">>}]))#capability{
                exp = erlang:system_time(second) - 1},
    ?assertEqual({error, {unauthorized, expired}},
                 publish(Config, <<"t">>, esdb_capability:sign(Expired, Token))),
    Early = (unsigned(Config, service, [{<<"*">>, <<"*">>}]))#capability{
              nbf = erlang:system_time(second) + 60},
    ?assertEqual({error, {unauthorized, not_yet_valid}},
                 publish(Config, <<"t">>, esdb_capability:sign(Early, Token))).

a_token_for_another_audience_is_refused(Config) ->
    Token = root_token(Config, holder, [{<<"*">>, <<"*">>}]),
    ?assertEqual({error, {unauthorized, wrong_audience}}, publish(Config, <<"t">>, Token)),
    %% Nor does anybody but the audience hand it on.
    Stolen = (esdb_capability:create(value(root, Config), value(service, Config),
                                     [esdb_capability:grant(<<"*">>, <<"*">>)]))#capability{
               prf = [esdb_capability:encode(Token, jwt)]},
    ?assertEqual({error, {unauthorized, broken_chain}},
                 publish(Config, <<"t">>, esdb_capability:sign(Stolen, value(root, Config)))).

a_tampered_token_is_refused(Config) ->
    Token = root_token(Config, service, [{channel(<<"a">>), <<"*">>}]),
    Wider = Token#capability{att = [#{with => <<"*">>, can => <<"*">>}]},
    ?assertEqual({error, {unauthorized, invalid_signature}}, publish(Config, <<"t">>, Wider)),
    Later = Token#capability{exp = Token#capability.exp + 1},
    ?assertEqual({error, {unauthorized, invalid_signature}}, publish(Config, <<"a">>, Later)).

a_token_of_somebody_else_is_refused(Config) ->
    Token = esdb_capability:create(value(holder, Config), value(service, Config),
                                   [esdb_capability:grant(<<"*">>, <<"*">>)]),
    ?assertEqual({error, {unauthorized, untrusted_issuer}},
                 publish(Config, <<"t">>, esdb_capability:sign(Token, value(holder, Config)))).

%%% Subscribing by the shim

a_subscriber_without_a_token_gets_nothing_beside_one_with(Config) ->
    Token = root_token(Config, service, [{<<"*">>, <<"*">>}]),
    With = subscriber(Config, <<"shared">>, Token),
    {_, Pid} = Without = gater_harness:agent(value(shim, Config)),
    ?assertEqual({error, {unauthorized, capability_required}}, on(Config, fun() ->
        esdb_channel_server:subscribe(?CHANNEL, <<"shared">>, Pid)
    end)),
    ok = publish(Config, <<"shared">>, Token),
    gater_harness:until(fun() -> length(gater_harness:messages(With)) =:= 1 end),
    ?assertEqual([], gater_harness:messages(Without)).

a_subscription_outlives_a_bad_renewal_and_ends_when_asked(Config) ->
    Token = root_token(Config, service, [{<<"*">>, <<"*">>}]),
    {_, Pid} = Agent = subscriber(Config, <<"renewed">>, Token),
    %% Twice is once.
    ok = subscribe(Config, <<"renewed">>, Pid, root_token(Config, service, [{<<"*">>, <<"*">>}])),
    Bad = root_token(Config, service, [{channel(<<"else">>), <<"*">>}]),
    ?assertEqual({error, {unauthorized, not_granted}}, subscribe(Config, <<"renewed">>, Pid, Bad)),
    ok = publish(Config, <<"renewed">>, Token),
    gater_harness:until(fun() -> length(gater_harness:messages(Agent)) =:= 1 end),
    ?assertEqual([Pid], subscribers(Config, <<"renewed">>)),
    ok = on(Config, fun() -> esdb_channel_server:unsubscribe(?CHANNEL, <<"renewed">>, Pid) end),
    ok = publish(Config, <<"renewed">>, Token),
    ?assertEqual([], subscribers(Config, <<"renewed">>)),
    ?assertEqual(1, length(gater_harness:messages(Agent))).

a_subscription_with_a_token_is_made_again_by_the_next_gateway(Config) ->
    World = value(world, Config),
    Settings = #{config => (value(capabilities, Config))("required")},
    Gateway = gater_harness:gateway(World, Settings),
    Shim = gater_shim:node(World, [?MODULE]),
    ok = gater_shim:start(Shim, gater_shim:named([Gateway, value(gateway, Config)])),
    Own = lists:keystore(shim, 1, Config, {shim, Shim}),
    Token = root_token(Config, service, [{<<"*">>, <<"*">>}]),
    {_, Pid} = Agent = subscriber(Own, <<"restored">>, Token),
    ok = gater_harness:signal(Gateway, "KILL"),
    gater_harness:until(fun() -> subscribers(Config, <<"restored">>) =:= [Pid] end),
    ok = publish(Config, <<"restored">>, Token),
    gater_harness:until(fun() -> length(gater_harness:messages(Agent)) =:= 1 end).

%%% Without the shim

a_plain_node_sends_its_token_itself(Config) ->
    Beam = gater_harness:node(value(world, Config)),
    Token = esdb_capability:encode(root_token(Config, service, [{<<"*">>, <<"*">>}]), jwt),
    {_, Pid} = Agent = gater_harness:agent(Beam),
    To = {?CHANNEL, value(gateway, Config)},
    Required = {error, {unauthorized, capability_required}},
    ?assertEqual(Required, gater_harness:call(Beam, To, {publish, <<"plain">>, m})),
    ?assertEqual(Required, gater_harness:call(Beam, To, {subscribe, <<"plain">>, Pid})),
    ?assertEqual(Required, gater_harness:call(Beam, To, {keep, <<"plain">>, Pid, Pid, 0})),
    ok = gater_harness:call(Beam, To, {subscribe, <<"plain">>, Pid, Token}),
    [?assertEqual({error, {unauthorized, malformed_token}},
                  gater_harness:call(Beam, To, {publish, <<"plain">>, m, Bad}))
     || Bad <- [none, "list", {Token}, <<Token/binary, 0>>, <<1:7>>]],
    ?assertEqual({error, {unauthorized, token_too_large}},
                 gater_harness:call(Beam, To, {publish, <<"plain">>, m, <<0:(8 * 32769)>>})),
    %% What follows the message is no part of it.
    Message = #{nested => [{1, <<"x">>}]},
    ok = gater_harness:cast(Beam, To, {publish, <<"plain">>, not_this, <<"no token">>}),
    ok = gater_harness:call(Beam, To, {publish, <<"plain">>, Message, Token}),
    gater_harness:until(fun() -> gater_harness:messages(Agent) =/= [] end),
    ?assertEqual([{channel_message, ?CHANNEL, <<"plain">>, Message}], gater_harness:messages(Agent)).

refusals_are_counted(Config) ->
    Node = maps:get(node, value(shim, Config)),
    Count = fun() ->
        #{refused := Refused} = gater_harness:call(value(shim, Config),
            {esdb_gater_session, value(gateway, Config)}, counts),
        lists:sum([N || #{channel := ?CHANNEL, node := From, reason := not_granted, count := N} <- Refused,
                        From =:= Node])
    end,
    Before = Count(),
    Token = root_token(Config, service, [{channel(<<"a">>), <<"*">>}]),
    [{error, {unauthorized, not_granted}} = publish(Config, <<"b">>, Token) || _ <- [1, 2, 3]],
    {error, {unauthorized, not_granted}} = subscribe(Config, <<"b">>, self_of(Config), Token),
    ?assertEqual(Before + 4, Count()).

where_tokens_are_optional_only_bad_ones_are_refused(Config) ->
    Beam = value(shim, Config),
    To = {?CHANNEL, value(optional, Config)},
    Good = esdb_capability:encode(root_token(Config, service, [{<<"*">>, <<"*">>}]), jwt),
    Bad = esdb_capability:encode(root_token(Config, holder, [{<<"*">>, <<"*">>}]), jwt),
    ok = gater_harness:call(Beam, To, {publish, <<"t">>, m}),
    ok = gater_harness:call(Beam, To, {publish, <<"t">>, m, Good}),
    ?assertEqual({error, {unauthorized, wrong_audience}},
                 gater_harness:call(Beam, To, {publish, <<"t">>, m, Bad})).

%%% Channels that nodes serve

a_channel_of_the_users_own_asks_for_tokens(Config) ->
    Beam = value(shim, Config),
    Root = esdb_identity:did(value(root, Config)),
    ok = on(Config, fun() ->
        ok = application:set_env(erl_esdb_gater, capabilities, [{roots, [Root]}]),
        {ok, Channel} = esdb_channel_server:start_link(?MODULE, #{name => asks_for_tokens}),
        true = unlink(Channel),
        ok
    end),
    {_, Pid} = Agent = gater_harness:agent(Beam),
    On = fun(Function, Arguments) ->
        on(Config, fun() -> apply(esdb_channel_server, Function, [asks_for_tokens, <<"t">> | Arguments]) end)
    end,
    Good = root_token(Config, holder, [{<<"esdb://default/channel/asks_for_tokens/*">>, <<"*">>}]),
    Bad = root_token(Config, holder, [{channel(<<"*">>), <<"*">>}]),
    ?assertEqual({error, {unauthorized, capability_required}}, On(publish, [m])),
    ?assertEqual({error, {unauthorized, capability_required}}, On(subscribe, [Pid])),
    ?assertEqual({error, {unauthorized, not_granted}}, On(publish, [m, Bad])),
    ok = On(subscribe, [Pid, Good]),
    %% A peer may send any term, which does not end the channel.
    [?assertEqual({error, {unauthorized, malformed_token}}, on(Config, fun() ->
        gen_server:call(asks_for_tokens, {publish, <<"t">>, m, Token})
     end)) || Token <- [none, term_to_binary(Good#capability{exp = 1 bsl 64}),
                        term_to_binary(Good#capability{fct = #{<<"a">> => 1.5}})]],
    ok = On(publish, [m, Good]),
    gater_harness:until(fun() -> gater_harness:messages(Agent) =/= [] end).

requires_capability() -> true.

%%% Configuration

roots_are_needed(Config) ->
    {error, {ended, 64, Text}} = gater_harness:launch(value(world, Config), #{
        config => "[capabilities]\nmode = \"required\"\n"}),
    ?assertMatch({match, _}, re:run(Text, "capabilities\\.roots")).

%%% Tokens

channel(Topic) -> <<"esdb://default/channel/esdb_channel_events/", Topic/binary>>.

unsigned(Config, Audience, Grants) ->
    esdb_capability:create(value(root, Config), value(Audience, Config),
                           [esdb_capability:grant(With, Can) || {With, Can} <- Grants]).

root_token(Config, Audience, Grants) ->
    esdb_capability:sign(unsigned(Config, Audience, Grants), value(root, Config)).

narrower(Config, Grants) ->
    Parent = root_token(Config, holder, [{channel(<<"orders-*">>), ?ACTION_CHANNEL_PUBLISH}]),
    Child = esdb_capability:delegate(Parent, value(service, Config),
                                     [esdb_capability:grant(With, Can) || {With, Can} <- Grants]),
    esdb_capability:sign(Child, value(holder, Config)).

%% Written by hand: `delegate' refuses to.
widened(Config, {With, Can}) ->
    Narrower = narrower(Config, []),
    esdb_capability:sign(Narrower#capability{att = [esdb_capability:grant(With, Can)]},
                         value(holder, Config)).

%%% By the shim

publish(Config, Topic, Token) ->
    on(Config, fun() -> esdb_channel_server:publish(?CHANNEL, Topic, m, Token) end).

subscribe(Config, Topic, Pid, Token) ->
    on(Config, fun() -> esdb_channel_server:subscribe(?CHANNEL, Topic, Pid, Token) end).

subscriber(Config, Topic, Token) ->
    {_, Pid} = Agent = gater_harness:agent(value(shim, Config)),
    ok = subscribe(Config, Topic, Pid, Token),
    Agent.

subscribers(Config, Topic) ->
    on(Config, fun() -> esdb_channel_server:get_subscribers(?CHANNEL, Topic) end).

self_of(Config) ->
    {_, Pid} = gater_harness:agent(value(shim, Config)),
    Pid.

on(Config, Function) -> gater_harness:on(value(shim, Config), Function).

value(Key, Config) ->
    {Key, Value} = lists:keyfind(Key, 1, Config),
    Value.
