%% @doc Signed channels, with OTP itself as the oracle of the canonical form: messages are signed
%% with `term_to_binary' and `crypto', without any code of ours but where a case says so.
-module(signature_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([a_signed_alert_is_accepted_and_arrives_as_signed/1, an_unsigned_alert_is_refused/1,
         a_message_that_is_no_map_is_refused/1, a_forged_alert_is_refused/1,
         tampering_with_any_byte_fails/1, the_older_latin1_form_verifies/1,
         forty_atom_keys_in_a_nested_map_verify_from_any_release/1,
         generated_messages_verify_from_any_release/1,
         the_module_of_one_release_verifies_what_that_of_another_signed/1, the_age_is_judged_before_the_signature/1,
         the_signature_must_be_there_before_the_rate_counts/1,
         a_changed_secret_verifies_and_so_does_the_one_before/1, a_secret_is_never_logged/1]).

-define(ALERTS, esdb_channel_alerts).
-define(SECRET, <<"a secret for tests">>).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [a_signed_alert_is_accepted_and_arrives_as_signed, an_unsigned_alert_is_refused,
     a_message_that_is_no_map_is_refused, a_forged_alert_is_refused, tampering_with_any_byte_fails,
     the_older_latin1_form_verifies, forty_atom_keys_in_a_nested_map_verify_from_any_release,
     generated_messages_verify_from_any_release,
     the_module_of_one_release_verifies_what_that_of_another_signed, the_age_is_judged_before_the_signature,
     the_signature_must_be_there_before_the_rate_counts,
     a_changed_secret_verifies_and_so_does_the_one_before, a_secret_is_never_logged].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World, #{
        env => [{"ESDB_GATER_SECRET", binary_to_list(?SECRET)}],
        config => "[channels.signed_and_rated]\npriority = \"normal\"\nmax_rate = 1\nhmac = \"required\"\n"}),
    Beam = beam(World, 25),
    Others = [beam(World, Release) || Release <- [27, 29], {ok, _} <- [gater_release:root(Release)]],
    [{world, World}, {gateway, Gateway}, {beam, Beam}, {others, Others} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

beam(World, Release) ->
    Signing = [esdb_gater_nif, esdb_gater_bounds, esdb_gater_canonical, esdb_gater_config,
               esdb_gater_limit, esdb_gater_nearest, esdb_pubsub_security],
    Beam = gater_harness:node(World, #{otp => Release, modules => [?MODULE | Signing]}),
    {ok, _} = gater_harness:on(Beam, fun() -> application:ensure_all_started(crypto) end),
    Beam.

a_signed_alert_is_accepted_and_arrives_as_signed(Config) ->
    Agent = {_, Pid} = gater_harness:agent(value(beam, Config)),
    ok = gater_harness:call(value(beam, Config), {?ALERTS, value(gateway, Config)},
        {subscribe, <<"fire">>, Pid}),
    Signed = sign(#{type => alert, level => critical}),
    ok = gater_harness:call(value(beam, Config), {?ALERTS, value(gateway, Config)},
        {publish, <<"fire">>, Signed}),
    gater_harness:until(fun() -> gater_harness:messages(Agent) =/= [] end),
    ?assertEqual([{channel_message, ?ALERTS, <<"fire">>, Signed}], gater_harness:messages(Agent)).

an_unsigned_alert_is_refused(Config) ->
    [?assertEqual({error, signature_required}, publish(Config, Message))
     || Message <- [#{type => alert}, #{}, #{<<"signature">> => <<"x">>}, #{"signature" => 1},
                    maps:remove(signature, sign(#{a => 1}))]].

a_message_that_is_no_map_is_refused(Config) ->
    [?assertEqual({error, signature_required}, publish(Config, Message))
     || Message <- [alert, {signature, <<"x">>}, [{signature, <<"x">>}], <<"signature">>, 1]].

a_forged_alert_is_refused(Config) ->
    Signed = sign(#{type => alert}),
    [?assertEqual({error, invalid_signature}, publish(Config, Forged), Forged)
     || Forged <- [sign(#{type => alert}, <<"another secret">>), Signed#{level => critical},
                   Signed#{type => all_clear}, maps:remove(type, Signed), Signed#{signature => <<>>},
                   Signed#{signature => <<"not base64 at all!">>}, Signed#{signature => 1},
                   Signed#{signature => undefined}, Signed#{signature => base64:encode(<<0:256>>)},
                   Signed#{signature => base64:encode(<<0:248>>)},
                   Signed#{signature => binary_to_list(maps:get(signature, Signed))}]].

tampering_with_any_byte_fails(Config) ->
    #{node := Gater} = value(gateway, Config),
    Signed = #{signature := Signature} = sign(#{type => alert, text => <<"the house is on fire">>}),
    Changed = fun(Binary, At) ->
        <<Before:At/binary, Byte, After/binary>> = Binary,
        <<Before/binary, (Byte bxor 1), After/binary>>
    end,
    #{text := Text} = Signed,
    Forgeries =
        [Signed#{text := Changed(Text, At)} || At <- lists:seq(0, byte_size(Text) - 1)] ++
        %% The last character before the padding holds two bits that base64 does not use.
        [Signed#{signature := Changed(Signature, At)} || At <- lists:seq(0, byte_size(Signature) - 1)],
    Answers = gater_harness:on(value(beam, Config), fun() ->
        [gen_server:call({?ALERTS, Gater}, {publish, <<"t">>, Forgery}) || Forgery <- Forgeries]
    end),
    ?assertEqual([{error, invalid_signature}], lists:usort(Answers)).

the_older_latin1_form_verifies(Config) ->
    Message = #{type => alert, 'größe' => 3, nested => #{'ä' => [ö, {ü}]},
                signed_at => erlang:system_time(second)},
    Bytes = term_to_binary(lists:sort(maps:to_list(Message)), [deterministic, {minor_version, 1}]),
    ?assertEqual(ok, publish(Config, Message#{signature => mac(Bytes, ?SECRET)})).

forty_atom_keys_in_a_nested_map_verify_from_any_release(Config) ->
    Keys = [list_to_atom("key_" ++ integer_to_list(N)) || N <- lists:seq(1, 40)],
    Shuffled = [Key || {_, Key} <- lists:sort([{rand:uniform(), Key} || Key <- Keys])],
    from_each_release(Config, fun() ->
        %% Made in another order on each node, so numbered differently in each atom table.
        _ = [list_to_atom(atom_to_list(Key)) || Key <- Shuffled],
        [sign(#{type => alert, nested => maps:from_list([{Key, Key} || Key <- Shuffled])})]
    end),
    %% Signed on one node, sent by the other.
    [begin
         Signed = gater_harness:on(Other, fun() ->
             sign(#{nested => maps:from_list([{Key, Key} || Key <- Shuffled])}) end),
         ?assertEqual(ok, publish(Config, Signed))
     end || Other <- value(others, Config)],
    complete().

generated_messages_verify_from_any_release(Config) ->
    Seed = erlang:unique_integer([positive]),
    ct:log("seed ~p", [Seed]),
    from_each_release(Config, fun() ->
        rand:seed(exsss, Seed),
        [sign(#{body => generate(5), generate(2) => generate(3), at => N}) || N <- lists:seq(1, 500)]
    end),
    complete().

the_module_of_one_release_verifies_what_that_of_another_signed(Config) ->
    Beams = [value(beam, Config) | value(others, Config)],
    [begin
         Signed = gater_harness:on(Signer, fun() ->
             Keys = [list_to_atom("module_key_" ++ integer_to_list(N)) || N <- lists:seq(1, 40)],
             [esdb_pubsub_security:sign(Map, ?SECRET)
              || Map <- [#{type => alert}, #{nested => maps:from_list([{K, K} || K <- Keys])}
                         | [#{body => generate(4), generate(2) => N} || N <- lists:seq(1, 50)]]]
         end),
         [?assertEqual(ok, publish(Config, Message)) || Message <- Signed],
         [begin
              Answers = gater_harness:on(Verifier, fun() ->
                  [{esdb_pubsub_security:verify(Message, ?SECRET),
                    esdb_pubsub_security:verify(Message#{forged => true}, ?SECRET)}
                   || Message <- Signed]
              end),
              ?assertEqual([{ok, {error, invalid_signature}}], lists:usort(Answers))
          end || Verifier <- Beams]
     end || Signer <- Beams],
    case Beams of
        [_] -> {skip, "there is no OTP 27 here: the part within one release has passed"};
        _ -> ok
    end.

the_age_is_judged_before_the_signature(Config) ->
    Now = erlang:system_time(second),
    [?assertEqual({error, Reason}, publish(Config, Message), Message)
     || {Reason, Message} <- [
         {missing_timestamp, #{signature => <<"x">>}},
         {invalid_timestamp, #{signature => <<"x">>, signed_at => <<"now">>}},
         {invalid_timestamp, #{signature => <<"x">>, signed_at => 1.0 * Now}},
         {message_expired, #{signature => <<"x">>, signed_at => Now - 400}},
         {message_expired, sign(#{a => 1, signed_at => Now - 400})},
         {message_expired, sign(#{a => 1, signed_at => Now + 60})},
         {invalid_signature, #{signature => <<"x">>, signed_at => Now}}]],
    ?assertEqual(ok, publish(Config, sign(#{a => 1, signed_at => Now - 200}))).

the_signature_must_be_there_before_the_rate_counts(Config) ->
    To = {signed_and_rated, value(gateway, Config)},
    Send = fun(Message) ->
        gater_harness:call(value(beam, Config), To, {publish, <<"t">>, Message}) end,
    %% A rate of one per second: the unsigned do not use it up, the forged do.
    [?assertEqual({error, signature_required}, Send(#{a => N})) || N <- [1, 2, 3]],
    ?assertEqual({error, invalid_signature}, Send(sign(#{a => 1}, <<"another">>))),
    ?assertEqual({error, rate_limited}, Send(sign(#{a => 1}))).

a_changed_secret_verifies_and_so_does_the_one_before(Config) ->
    Session = {esdb_gater_session, value(gateway, Config)},
    Next = <<"the next secret">>,
    ok = gater_harness:call(value(beam, Config), Session, {set_secret, Next}),
    ?assertEqual(ok, publish(Config, sign(#{a => 1}, Next))),
    ?assertEqual(ok, publish(Config, sign(#{a => 1}, ?SECRET))),
    ?assertEqual({error, invalid_signature}, publish(Config, sign(#{a => 1}, <<"third">>))),
    ok = gater_harness:call(value(beam, Config), Session, {set_secret, ?SECRET}).

a_secret_is_never_logged(Config) ->
    Log = gater_harness:log(value(gateway, Config)),
    ?assertEqual([nomatch, nomatch],
        [binary:match(Log, Secret) || Secret <- [?SECRET, <<"the next secret">>]]).

%% @doc A message signed as the protocol says, with OTP alone.
sign(Message) -> sign(Message, ?SECRET).

sign(Message, Secret) ->
    Stamped = maps:merge(#{signed_at => erlang:system_time(second)}, maps:remove(signature, Message)),
    Bytes = term_to_binary(lists:sort(maps:to_list(Stamped)), [deterministic, {minor_version, 2}]),
    Stamped#{signature => mac(Bytes, Secret)}.

mac(Bytes, Secret) -> base64:encode(crypto:mac(hmac, sha256, Secret, Bytes)).

generate(0) -> generate_leaf();
generate(Depth) ->
    Many = fun(Max) -> [generate(Depth - 1) || _ <- lists:seq(1, rand:uniform(Max) - 1)] end,
    case rand:uniform(8) of
        1 -> Many(4);
        2 -> list_to_tuple(Many(4));
        3 -> maps:from_list([{generate(Depth - 1), Value} || Value <- Many(5)]);
        4 -> maps:from_list([{generate_leaf(), N} || N <- lists:seq(1, 25 + rand:uniform(30))]);
        5 -> Many(3) ++ generate_leaf();
        _ -> generate_leaf()
    end.

generate_leaf() ->
    case rand:uniform(10) of
        1 -> rand:uniform(600) - 300;
        2 -> (rand:uniform(1 bsl 70) - (1 bsl 69)) bsl rand:uniform(300);
        3 -> rand:normal() * math:pow(10, rand:uniform(300) - 150);
        4 -> float(rand:uniform(20) - 10);
        5 -> lists:nth(rand:uniform(8), [a, b, '', 'ä', '漢字', 'a b', undefined, '🦀']);
        6 -> rand:bytes(rand:uniform(80) - 1);
        7 -> Bits = rand:uniform(40), <<(rand:uniform(1 bsl Bits) - 1):Bits>>;
        8 -> [rand:uniform(256) - 1 || _ <- lists:seq(1, rand:uniform(20))];
        9 -> list_to_atom("atom_" ++ integer_to_list(rand:uniform(300)));
        10 -> lists:nth(rand:uniform(4), [fun lists:map/2, [], {}, #{}])
    end.

%% Publishes the messages that `Make' makes, from a node of each release.
from_each_release(Config, Make) ->
    #{node := Gater} = value(gateway, Config),
    [begin
         Answers = gater_harness:on(Beam, fun() ->
             [{gen_server:call({?ALERTS, Gater}, {publish, <<"t">>, Message}), Message}
              || Message <- Make()] end),
         ?assertEqual([], [Answer || Answer = {Result, _} <- Answers, Result =/= ok])
     end || Beam <- [value(beam, Config) | value(others, Config)]],
    ok.

%% The result of a case that has passed on every release that is here.
complete() ->
    case [Release || Release <- [27, 29], {skip, _} <- [gater_release:root(Release)]] of
        [] -> ok;
        Missing -> {skip, io_lib:format("it has passed, but there is no OTP ~w here", [Missing])}
    end.

publish(Config, Message) ->
    gater_harness:call(value(beam, Config), {?ALERTS, value(gateway, Config)},
        {publish, <<"t">>, Message}).

value(Key, Config) -> proplists:get_value(Key, Config).
