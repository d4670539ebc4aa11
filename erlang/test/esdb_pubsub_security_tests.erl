-module(esdb_pubsub_security_tests).

-include_lib("eunit/include/eunit.hrl").

-define(RING, {esdb_pubsub_security, ring}).
-define(SECRET, <<"a secret for tests">>).

%% Every case runs with the library and without: what is claimed holds for both.
all_test_() ->
    [{Name, {setup, fun() -> setup(Kind) end, fun cleanup/1, cases()}}
     || {Name, Kind} <- [{"with the library", native}, {"in Erlang", erlang}]].

cases() ->
    [{atom_to_list(Name), {timeout, 60, fun() ->
                                            forget(),
                                            ok = esdb_pubsub_security:set_secret(?SECRET),
                                            Test()
                                        end}}
     || {Name, Test} <-
            [{the_golden_vectors_verify, fun the_golden_vectors_verify/0},
             {the_known_answer_verifies, fun the_known_answer_verifies/0},
             {signing_adds_time_and_signature, fun signing_adds_time_and_signature/0},
             {signing_again_replaces_both, fun signing_again_replaces_both/0},
             {a_changed_message_is_refused, fun a_changed_message_is_refused/0},
             {each_fault_has_its_reason, fun each_fault_has_its_reason/0},
             {the_age_is_judged_before_the_signature, fun the_age_is_judged_before_the_signature/0},
             {a_secret_of_ones_own_needs_no_other, fun a_secret_of_ones_own_needs_no_other/0},
             {what_is_no_secret_is_refused, fun what_is_no_secret_is_refused/0},
             {the_secret_before_verifies_for_a_while, fun the_secret_before_verifies_for_a_while/0},
             {the_same_secret_again_changes_nothing, fun the_same_secret_again_changes_nothing/0},
             {large_messages_are_signed_alike, fun large_messages_are_signed_alike/0},
             {terms_too_deep_for_the_library_are_signed,
              fun terms_too_deep_for_the_library_are_signed/0},
             {many_at_once_agree_on_one_random_secret, fun many_at_once_agree_on_one_random_secret/0},
             {the_configured_secret_is_used, fun the_configured_secret_is_used/0},
             {the_environment_comes_before_the_configuration,
              fun the_environment_comes_before_the_configuration/0},
             {configuring_keeps_a_secret_set_by_hand, fun configuring_keeps_a_secret_set_by_hand/0},
             {rates_are_limited_per_channel_and_topic, fun rates_are_limited_per_channel_and_topic/0},
             {a_port_verifies_in_both_of_its_forms, fun a_port_verifies_in_both_of_its_forms/0},
             {a_local_fun_cannot_be_signed, fun a_local_fun_cannot_be_signed/0},
             {what_is_no_topic_is_refused, fun what_is_no_topic_is_refused/0}]].

setup(Kind) ->
    Status = esdb_gater_nif:status(),
    case Kind of
        native -> _ = esdb_gater_gen:library();
        erlang -> persistent_term:put(esdb_gater_nif, {not_loaded, not_found})
    end,
    forget(),
    Status.

cleanup(Status) ->
    persistent_term:put(esdb_gater_nif, Status),
    forget().

forget() ->
    _ = persistent_term:erase(?RING),
    _ = [persistent_term:erase(Key) || {{esdb_pubsub_security, rate, _} = Key, _}
                                           <- persistent_term:get()],
    ok = application:unset_env(erl_esdb_gater, security),
    true = os:unsetenv("ESDB_GATER_SECRET"),
    ok.

the_golden_vectors_verify() ->
    %% They were signed at times of their own, or none: only the signature is looked at.
    [case maps:get(signed_at, Message, none) of
         At when is_integer(At) ->
             ok = with_ttl(1 bsl 40),
             ?assertEqual(ok, esdb_pubsub_security:verify(Message#{signature => Signature},
                                                          <<"golden secret">>));
         _ ->
             ok
     end || {_, Message, _, Signature} <- esdb_gater_gen:vectors()].

the_known_answer_verifies() ->
    ok = with_ttl(1 bsl 40),
    Known = #{type => alert, level => critical, signed_at => 1700000000,
              signature => <<"8j3TWvslGwqiO0rhDd+P4mR9Q1USZUdOuvHKzWxpGo4=">>},
    ?assertEqual(ok, esdb_pubsub_security:verify(Known, <<"secret">>)),
    ?assertEqual(ok, esdb_pubsub_security:verify(Known, "secret")).

with_ttl(Seconds) ->
    esdb_pubsub_security:configure(#{security => #{message_ttl_seconds => Seconds}}).

signing_adds_time_and_signature() ->
    Before = os:system_time(second),
    Signed = esdb_pubsub_security:sign(#{type => alert}),
    #{signed_at := At, signature := Signature} = Signed,
    ?assertEqual([signature, signed_at, type], lists:sort(maps:keys(Signed))),
    ?assert(Before =< At andalso At =< os:system_time(second)),
    ?assertEqual(32, byte_size(base64:decode(Signature))),
    Bytes = term_to_binary(lists:sort([{type, alert}, {signed_at, At}]),
                           [deterministic, {minor_version, 2}]),
    ?assertEqual(base64:encode(crypto:mac(hmac, sha256, ?SECRET, Bytes)), Signature),
    ?assertEqual(ok, esdb_pubsub_security:verify(Signed)).

signing_again_replaces_both() ->
    Signed = esdb_pubsub_security:sign(#{signed_at => nonsense, signature => nonsense, a => 1}),
    ?assertEqual(ok, esdb_pubsub_security:verify(Signed)),
    Again = esdb_pubsub_security:sign(Signed),
    ?assertEqual(ok, esdb_pubsub_security:verify(Again)),
    ?assertEqual(#{a => 1}, maps:without([signed_at, signature], Again)).

a_changed_message_is_refused() ->
    Signed = esdb_pubsub_security:sign(#{a => 1, b => <<"text">>}),
    [?assertEqual({error, invalid_signature}, esdb_pubsub_security:verify(Changed))
     || Changed <- [Signed#{a => 2}, Signed#{a => 1.0}, Signed#{c => 1}, maps:remove(a, Signed),
                    Signed#{b => <<"Text">>}, Signed#{signature => <<>>}, Signed#{signature => 1},
                    Signed#{signature => <<"same length, but not a signature at all..===">>}]].

each_fault_has_its_reason() ->
    Now = os:system_time(second),
    Cases = [{#{}, missing_signature},
             {#{signed_at => Now}, missing_signature},
             {#{<<"signature">> => <<>>}, missing_signature},
             {#{signature => <<>>}, missing_timestamp},
             {#{signature => <<>>, signed_at => 1.0}, invalid_timestamp},
             {#{signature => <<>>, signed_at => undefined}, invalid_timestamp},
             {#{signature => <<>>, signed_at => Now}, invalid_signature},
             {no_map, badarg}, {[{signature, 1}], badarg}],
    [?assertEqual({error, Reason}, esdb_pubsub_security:verify(Message))
     || {Message, Reason} <- Cases],
    ?assertEqual({error, badarg}, esdb_pubsub_security:sign(no_map)),
    ?assertEqual({error, badarg}, esdb_pubsub_security:sign(no_map, ?SECRET)),
    ?assertEqual({error, badarg}, esdb_pubsub_security:verify(no_map, ?SECRET)).

the_age_is_judged_before_the_signature() ->
    Now = os:system_time(second),
    [?assertEqual({error, message_expired},
                  esdb_pubsub_security:verify(#{signature => <<>>, signed_at => At}))
     || At <- [Now - 310, Now + 60, 0, -1, 1 bsl 64, -(1 bsl 64), 1 bsl 200]],
    [?assertEqual({error, invalid_signature},
                  esdb_pubsub_security:verify(#{signature => <<>>, signed_at => At}))
     || At <- [Now - 290, Now, Now + 5]].

a_secret_of_ones_own_needs_no_other() ->
    Signed = esdb_pubsub_security:sign(#{a => 1}, <<"own">>),
    ?assertEqual(ok, esdb_pubsub_security:verify(Signed, <<"own">>)),
    ?assertEqual(ok, esdb_pubsub_security:verify(Signed, "own")),
    ?assertEqual({error, invalid_signature}, esdb_pubsub_security:verify(Signed)),
    ?assertEqual({error, invalid_signature}, esdb_pubsub_security:verify(Signed, <<"other">>)),
    Long = binary:copy(<<"long">>, 1000),
    ?assertEqual(ok, esdb_pubsub_security:verify(esdb_pubsub_security:sign(#{}, Long), Long)).

what_is_no_secret_is_refused() ->
    [begin
         ?assertEqual({error, badarg}, esdb_pubsub_security:set_secret(Bad)),
         ?assertEqual({error, badarg}, esdb_pubsub_security:sign(#{}, Bad)),
         ?assertEqual({error, badarg}, esdb_pubsub_security:verify(#{}, Bad))
     end || Bad <- [<<>>, "", atom, 1, [atom], [-1], <<1:1>>]],
    ?assertEqual(?SECRET, esdb_pubsub_security:get_secret()).

the_secret_before_verifies_for_a_while() ->
    ok = with_ttl(2),
    Signed = esdb_pubsub_security:sign(#{a => 1}),
    ok = esdb_pubsub_security:set_secret(<<"next">>),
    ?assertEqual(<<"next">>, esdb_pubsub_security:get_secret()),
    ?assertEqual(ok, esdb_pubsub_security:verify(Signed)),
    ?assertEqual(ok, esdb_pubsub_security:verify(esdb_pubsub_security:sign(#{a => 1}))),
    %% What is signed with the old secret later is refused once its time is over.
    until(fun() ->
              Late = esdb_pubsub_security:sign(#{a => 1}, ?SECRET),
              esdb_pubsub_security:verify(Late) =:= {error, invalid_signature}
          end).

the_same_secret_again_changes_nothing() ->
    ok = esdb_pubsub_security:set_secret(<<"one">>),
    Ring = persistent_term:get(?RING),
    ok = esdb_pubsub_security:set_secret("one"),
    ?assertEqual(Ring, persistent_term:get(?RING)).

large_messages_are_signed_alike() ->
    [begin
         #{signed_at := At, signature := Signature} = Signed = esdb_pubsub_security:sign(Message),
         Bytes = esdb_gater_canonical:bytes(Message#{signed_at => At}),
         ?assertEqual(base64:encode(crypto:mac(hmac, sha256, ?SECRET, Bytes)), Signature),
         ?assertEqual(ok, esdb_pubsub_security:verify(Signed)),
         ?assertEqual({error, invalid_signature}, esdb_pubsub_security:verify(Signed#{more => 1}))
     end || Message <- [#{data => binary:copy(<<"x">>, Size)}
                        || Size <- [16000, 16384, 17000, 5_000_000]]
                ++ [maps:from_list([{N, {N}} || N <- lists:seq(1, 50_000)]),
                    #{list => lists:seq(1, 300_000), deep => nested(100_000)}]].

nested(Depth) -> lists:foldl(fun(_, Inner) -> {Inner} end, end_of_it, lists:seq(1, Depth)).

terms_too_deep_for_the_library_are_signed() ->
    Deep = #{nested(1000) => 1, {nested(1000)} => 2, nested(999) => 3},
    Signed = #{signed_at := At} = esdb_pubsub_security:sign(Deep),
    Bytes = esdb_gater_canonical:bytes(Deep#{signed_at => At}),
    ?assertEqual(base64:encode(crypto:mac(hmac, sha256, ?SECRET, Bytes)),
                 maps:get(signature, Signed)),
    ?assertEqual(ok, esdb_pubsub_security:verify(Signed)),
    ?assertEqual({error, invalid_signature}, esdb_pubsub_security:verify(Signed#{a => 1})).

many_at_once_agree_on_one_random_secret() ->
    forget(),
    Self = self(),
    Pids = [spawn_link(fun() ->
                           receive go -> Self ! {self(), esdb_pubsub_security:get_secret()} end
                       end) || _ <- lists:seq(1, 20)],
    _ = [Pid ! go || Pid <- Pids],
    Secrets = [receive {Pid, Secret} -> Secret end || Pid <- Pids],
    ?assertMatch([<<_:32/binary>>], lists:usort(Secrets)).

the_configured_secret_is_used() ->
    [begin
         forget(),
         ok = application:set_env(erl_esdb_gater, security, Security),
         ?assertEqual(<<"gr", 195, 188, "n">>, esdb_pubsub_security:get_secret())
     end || Security <- [[{hmac_secret, "grün"}], [{hmac_secret, <<"grün"/utf8>>}],
                         #{hmac_secret => "grün"}]].

the_environment_comes_before_the_configuration() ->
    forget(),
    ok = application:set_env(erl_esdb_gater, security, [{hmac_secret, <<"configured">>}]),
    true = os:putenv("ESDB_GATER_SECRET", "from outside"),
    ?assertEqual(<<"from outside">>, esdb_pubsub_security:get_secret()),
    forget().

configuring_keeps_a_secret_set_by_hand() ->
    ok = esdb_pubsub_security:configure(#{}),
    ?assertEqual(?SECRET, esdb_pubsub_security:get_secret()),
    Signed = esdb_pubsub_security:sign(#{}),
    ok = esdb_pubsub_security:configure(#{security => #{hmac_secret => <<"configured">>}}),
    ?assertEqual(<<"configured">>, esdb_pubsub_security:get_secret()),
    ?assertEqual(ok, esdb_pubsub_security:verify(Signed)).

rates_are_limited_per_channel_and_topic() ->
    Check = fun(Channel, Topic) -> esdb_pubsub_security:check_rate(Channel, Topic, 2) end,
    [?assertEqual(ok, Check(C, T)) || C <- [one, two], T <- [<<"a">>, <<"b">>], _ <- [1, 2]],
    [?assertEqual({error, rate_limited}, Check(C, T)) || C <- [one, two], T <- [<<"a">>, <<"b">>]],
    %% Half a second later there is a token again.
    until(fun() -> Check(one, <<"a">>) =:= ok end),
    ?assertEqual(ok, esdb_pubsub_security:check_rate(esdb_channel_alerts, <<"a">>)),
    Health = [esdb_pubsub_security:check_rate(esdb_channel_health, <<"a">>)
              || _ <- lists:seq(1, 150)],
    ?assertEqual(lists:duplicate(100, ok), lists:sublist(Health, 100)),
    ?assert(lists:member({error, rate_limited}, Health)),
    ?assertEqual({error, {unknown_channel, nowhere}},
                 esdb_pubsub_security:check_rate(nowhere, <<"a">>)).

what_is_no_topic_is_refused() ->
    [?assertEqual({error, {bad_topic, Fault}}, esdb_pubsub_security:check_rate(any, Topic, Rate))
     || {Topic, Fault} <- [{<<>>, empty}, {binary:copy(<<"x">>, 256), too_long}, {atom, not_binary},
                           {<<1:1>>, not_binary}],
        Rate <- [10, infinity]],
    ?assertEqual(ok, esdb_pubsub_security:check_rate(any, binary:copy(<<"x">>, 255), 10)),
    [?assertEqual({error, badarg}, esdb_pubsub_security:check_rate(any, <<"t">>, Bad))
     || Bad <- [0, -1, 1.0, never]].

until(Condition) ->
    until(Condition, erlang:monotonic_time(millisecond) + 30_000).

until(Condition, End) ->
    case Condition() of
        true -> ok;
        false ->
            ?assert(erlang:monotonic_time(millisecond) < End),
            receive after 20 -> until(Condition, End) end
    end.

a_port_verifies_in_both_of_its_forms() ->
    Port = hd(erlang:ports()),
    Message = #{port => Port, list => [Port, {Port, 1.5}], n => 1 bsl 70, pid => self(),
                ref => make_ref(), text => <<"t">>, signed_at => os:system_time(second)},
    Own = esdb_gater_canonical:bytes(Message),
    %% As a node of another release writes them.
    {Form, Other} = case term_to_binary(Port, [{minor_version, 2}]) of
        <<131, 89, Rest/binary>> = Narrow ->
            Node = byte_size(Rest) - 8,
            <<Name:Node/binary, Number:32, Creation:4/binary>> = Rest,
            {Narrow, <<120, Name/binary, Number:64, Creation/binary>>};
        <<131, 120, Rest/binary>> = Wide ->
            Node = byte_size(Rest) - 12,
            <<Name:Node/binary, Number:64, Creation:4/binary>> = Rest,
            {Wide, <<89, Name/binary, Number:32, Creation/binary>>}
    end,
    <<131, Written/binary>> = Form,
    Foreign = binary:replace(Own, Written, Other, [global]),
    ?assertNotEqual(Own, Foreign),
    ?assertEqual([Foreign], esdb_gater_canonical:other_ports(Own)),
    ?assertEqual([Own], esdb_gater_canonical:other_ports(Foreign)),
    Sign = fun(Bytes) -> base64:encode(crypto:mac(hmac, sha256, ?SECRET, Bytes)) end,
    [?assertEqual(ok, esdb_pubsub_security:verify(Message#{signature => Sign(Bytes)}))
     || Bytes <- [Own, Foreign]],
    ?assertEqual({error, invalid_signature},
                 esdb_pubsub_security:verify(Message#{signature => Sign(<<Own/binary, 0>>)})),
    ?assertEqual(ok, esdb_pubsub_security:verify(esdb_pubsub_security:sign(#{port => Port}))).

a_local_fun_cannot_be_signed() ->
    Local = fun() -> ok end,
    [begin
         Raised = try esdb_pubsub_security:sign(Message) of
                      Signed -> {signed, Signed}
                  catch
                      error:badarg:Stack -> esdb_pubsub_security:format_error(badarg, Stack)
                  end,
         ?assertMatch(#{1 := "there is a local fun" ++ _}, Raised)
     end || Message <- [#{f => Local}, #{a => [1, {x, #{y => Local}}]}, #{a => [b | Local]},
                        #{Local => 1}, #{f => Local, large => binary:copy(<<0>>, 100000)}]],
    %% What is replaced is not signed, and external funs are the same everywhere.
    ?assertEqual(ok, esdb_pubsub_security:verify(
                       esdb_pubsub_security:sign(#{signature => Local, f => fun lists:map/2}))).
